package flow

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// mint is an IMS that issues token-1, token-2, … of a given lifetime.
type mint struct {
	mu       sync.Mutex
	n        int
	lifetime time.Duration
	takes    time.Duration
	err      *provision.CallError
}

func (m *mint) fetch(ctx context.Context, _ provision.Credentials) (bearer, *provision.CallError) {
	select {
	case <-time.After(m.takes):
	case <-ctx.Done():
		return bearer{}, unanswered(provision.TargetIMS, provision.VerdictNotSent, ctx.Err(), scrubber{})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	if m.err != nil {
		return bearer{}, m.err
	}
	now := time.Now()
	return bearer{token: provision.NewSensitive(fmt.Sprintf("token-%d", m.n)), got: now, expiresAt: now.Add(m.lifetime)}, nil
}

func (m *mint) fail(err *provision.CallError) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// withTokens runs f in a bubble whose clock is f's.
func withTokens(t *testing.T, m *mint, f func(t *testing.T, ts *tokens)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ts := newTokens(m.fetch)
		defer ts.close()
		f(t, ts)
	})
}

func wantToken(t *testing.T, ts *tokens, want string) {
	t.Helper()
	got, err := ts.get(context.Background(), imsAccount().Credentials)
	if err != nil || got.Reveal() != want {
		t.Errorf("got %q, %v; want %q", got.Reveal(), err, want)
	}
	synctest.Wait() // for a refresh in the background
}

func TestTokenIsKeptAndRenewedAhead(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: 24 * time.Hour}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		wantToken(t, ts, "token-1")
		<-time.After(24*time.Hour - 501*time.Second)
		wantToken(t, ts, "token-1")
		<-time.After(2 * time.Second)
		wantToken(t, ts, "token-1") // still good; this call begins the refresh
		wantToken(t, ts, "token-2")
		<-time.After(24 * time.Hour)
		wantToken(t, ts, "token-3")
	})
}

func TestShortTokenIsRenewedInTime(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: 100 * time.Second} // a margin of 10 s
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		wantToken(t, ts, "token-1")
		<-time.After(89 * time.Second)
		wantToken(t, ts, "token-1")
		<-time.After(9 * time.Second)
		wantToken(t, ts, "token-2") // 2 s before its end token-1 is not given out any more
	})
}

func TestOldTokenHelpsWhileIMSIsDown(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		wantToken(t, ts, "token-1")
		m.fail(&provision.CallError{Verdict: provision.VerdictNotSent, Target: provision.TargetIMS})
		<-time.After(time.Hour - 300*time.Second)
		for range 5 {
			wantToken(t, ts, "token-1")
		}
		if m.n != 2 {
			t.Errorf("%d fetches, want one refresh, then a pause", m.n)
		}
		<-time.After(refreshPause)
		wantToken(t, ts, "token-1")
		if m.n != 3 {
			t.Errorf("%d fetches, want another refresh after the pause", m.n)
		}
		<-time.After(300 * time.Second)
		if _, err := ts.get(t.Context(), imsAccount().Credentials); err == nil {
			t.Error("an expired token was given out")
		}
	})
}

func TestOneFetchForAll(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour, takes: time.Second}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if got, err := ts.get(t.Context(), imsAccount().Credentials); err != nil || got.Reveal() != "token-1" {
					t.Errorf("%v, %v", got.Reveal(), err)
				}
			})
		}
		wg.Wait()
	})
}

// TestFetchOutlivesItsCaller: the one who began the fetch gives up, the others get its token.
func TestFetchOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour, takes: time.Minute}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := ts.get(ctx, imsAccount().Credentials)
		if err == nil || err.Verdict != provision.VerdictNotSent || err.Target != provision.TargetIMS || err.Cause != provision.CauseTimeout {
			t.Errorf("%+v: want not sent, by time-out", err)
		}
		wantToken(t, ts, "token-1")
	})
}

func TestForgetDropsThatVeryToken(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		cr := imsAccount().Credentials
		wantToken(t, ts, "token-1")
		ts.forget(cr, provision.NewSensitive("token-0"))
		wantToken(t, ts, "token-1")
		ts.forget(cr, provision.NewSensitive("token-1"))
		wantToken(t, ts, "token-2")
		ts.forget(cr, provision.NewSensitive("token-1")) // a late refusal of the old one
		wantToken(t, ts, "token-2")
		ts.forget(provision.Credentials{ClientID: "unknown"}, provision.NewSensitive("token-2"))
		wantToken(t, ts, "token-2")
	})
}

func TestFailureIsNotKept(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour, err: &provision.CallError{Verdict: provision.VerdictDenied}}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		if _, err := ts.get(t.Context(), imsAccount().Credentials); err == nil || err.Verdict != provision.VerdictDenied {
			t.Errorf("%+v: want denied", err)
		}
		m.fail(nil)
		wantToken(t, ts, "token-2")
	})
}

func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	m := &mint{lifetime: time.Hour}
	withTokens(t, m, func(t *testing.T, ts *tokens) {
		for n := range maxTokens + 10 {
			if _, err := ts.get(t.Context(), provision.Credentials{ClientID: fmt.Sprint(n)}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Nanosecond)
		}
		if len(ts.entries) != maxTokens {
			t.Errorf("%d accounts are kept, want %d", len(ts.entries), maxTokens)
		}
		if _, ok := ts.entries[keyOf(provision.Credentials{ClientID: "0"})]; ok {
			t.Error("the account that was idle longest is still kept")
		}
	})
}

func TestCloseEndsFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ts := newTokens((&mint{takes: time.Hour}).fetch)
		done := make(chan *provision.CallError)
		go func() {
			_, err := ts.get(context.Background(), imsAccount().Credentials)
			done <- err
		}()
		synctest.Wait()
		go ts.close()
		if err := <-done; err == nil {
			t.Error("want an error")
		}
		synctest.Wait()
		if _, err := ts.get(t.Context(), imsAccount().Credentials); err == nil || err.Verdict != provision.VerdictNotSent {
			t.Errorf("%+v after close: want not sent", err)
		}
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		said time.Time
		want time.Duration
	}{
		"a day":                 {now.Add(86399 * time.Second), 86399 * time.Second},
		"not said":              {time.Time{}, defaultLifetime},
		"milliseconds, it says": {now.Add(86399000 * time.Second), maxTokenLifetime},
	} {
		if got := expiry(now, tc.said).Sub(now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
