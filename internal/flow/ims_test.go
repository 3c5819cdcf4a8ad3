package flow

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// adobe plays IMS and a Flow Service that wants the newest token of it.
type adobe struct {
	issued atomic.Int64
	refuse atomic.Int64 // tokens up to that number are not accepted
	made   atomic.Int64 // connections
}

func (a *adobe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ims/token/v3" {
		reply(w, 200, fmt.Sprintf(`{"access_token":"%s-%d","token_type":"bearer","expires_in":86399}`, imsToken, a.issued.Add(1)))
		return
	}
	var n int64
	_, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer "+imsToken+"-%d", &n)
	switch {
	case err != nil || n <= a.refuse.Load():
		reply(w, 401, `{"error_code":"401013","message":"Oauth token is not valid: `+r.Header.Get("Authorization")+`"}`)
	case r.Method == http.MethodPost:
		reply(w, 201, fmt.Sprintf(`{"id":"c%d"}`, a.made.Add(1)))
	default:
		reply(w, 200, `{"items":[{"id":"c1"}]}`)
	}
}

func TestIMSRequest(t *testing.T) {
	t.Parallel()
	got := make(chan url.Values, 1)
	addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ims/token/v3" {
			if r.Header.Get("X-Api-Key") != "client-id" || r.Header.Get("Authorization") != "Bearer eyJexample" {
				t.Errorf("headers %v", r.Header)
			}
			reply(w, 201, `{"id":"c1"}`)
			return
		}
		if r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("query %q, headers %v: secrets belong in the body", r.URL.RawQuery, r.Header)
		}
		_ = r.ParseForm()
		got <- r.PostForm
		reply(w, 200, `{"access_token":"eyJexample","token_type":"bearer","expires_in":86399}`)
	})
	if _, err := newRig(t, addr).create(t, imsAccount()); err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"client-id"}, "client_secret": {imsSecret}, "scope": {"openid,session,AdobeID"},
	}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Error(diff)
	}
	hits.want(t, imsCall, 1)
	hits.want(t, postCall, 1)
}

func TestTokenIsShared(t *testing.T) {
	t.Parallel()
	a := new(adobe)
	addr, hits := serve(t, a.ServeHTTP)
	r := newRig(t, addr)
	for range 3 {
		if _, err := r.create(t, imsAccount()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.find(t, imsAccount(), provision.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	hits.want(t, imsCall, 1)
	rotated := imsAccount()
	rotated.Credentials.ClientSecret = provision.NewSensitive("another-secret")
	if _, err := r.create(t, rotated); err != nil {
		t.Fatal(err)
	}
	hits.want(t, imsCall, 2)
}

// TestCreateDropsARefusedToken: the POST is not repeated, but the next one has a new token.
func TestCreateDropsARefusedToken(t *testing.T) {
	t.Parallel()
	a := new(adobe)
	a.refuse.Store(1)
	addr, hits := serve(t, a.ServeHTTP)
	r := newRig(t, addr)
	_, err := r.create(t, imsAccount())
	if err == nil || err.Verdict != provision.VerdictUnauthorized || err.Code != "401013" {
		t.Errorf("%+v: want unauthorized", err)
	}
	hits.want(t, postCall, 1)
	if _, err := r.create(t, imsAccount()); err != nil {
		t.Error(err)
	}
	hits.want(t, postCall, 2)
	hits.want(t, imsCall, 2)
}

func TestFindRenewsARefusedTokenOnce(t *testing.T) {
	t.Parallel()
	a := new(adobe)
	a.refuse.Store(1)
	addr, hits := serve(t, a.ServeHTTP)
	r := newRig(t, addr)
	if _, err := r.find(t, imsAccount(), provision.Query{}); err != nil {
		t.Error(err)
	}
	hits.want(t, listCall, 2)
	hits.want(t, imsCall, 2)
	r.retries.want(t, "flow status", 1)
	a.refuse.Store(99)
	_, err := r.find(t, imsAccount(), provision.Query{})
	if err == nil || err.Verdict != provision.VerdictUnauthorized {
		t.Errorf("%+v: want unauthorized", err)
	}
	hits.want(t, listCall, 4)
	hits.want(t, imsCall, 3)
}

func TestStaticTokenIsNotRenewed(t *testing.T) {
	t.Parallel()
	addr, hits := serve(t, new(adobe).ServeHTTP)
	_, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
	if err == nil || err.Verdict != provision.VerdictUnauthorized {
		t.Errorf("%+v: want unauthorized", err)
	}
	hits.want(t, listCall, 1)
	hits.want(t, imsCall, 0)
}

func TestIMSErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status  int
		body    string
		verdict provision.Verdict
		cause   provision.Cause
		tries   int
		says    string
	}{
		"bad scope":       {400, string(sample(t, "ims-error-invalid-scope-400.json")), provision.VerdictDenied, "", 1, "set scopes"},
		"bad client":      {401, `{"error":"invalid_client","error_description":"bad ` + imsSecret + `"}`, provision.VerdictDenied, "", 1, "check clientId"},
		"bad client, 400": {400, `{"error":"invalid_client"}`, provision.VerdictDenied, "", 1, "check clientId"},
		"another refusal": {403, `{"error":"invalid_credentials"}`, provision.VerdictDenied, "", 1, "check clientId"},
		"gateway's code":  {403, `{"error_code":403003,"message":"Api Key is invalid"}`, provision.VerdictDenied, "", 1, "check clientId"},
		"unknown error":   {403, `{"error":"new_error"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"Spring's 401":    {401, `{"timestamp":"t","status":401,"error":"Unauthorized","path":"/ims/token/v3"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"Forbidden":       {403, `{"error":"Forbidden"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"error twice":     {401, `{"error":"invalid_client","error":"x"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"bad, HTML":       {403, `<html><title>Forbidden</title>`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "Forbidden; this is no answer of IMS itself"},
		"bad, empty":      {401, ``, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"gateway's 401":   {401, `{"message":"Unauthorized"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
		"its own trouble": {400, `{"error":"temporarily_unavailable"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "temporarily_unavailable"},
		"throttled":       {429, ``, provision.VerdictNotSent, provision.CauseThrottled, maxTries, "Too Many"},
		"down":            {503, `<html>`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "Service Unavailable"},
		"redirect":        {307, ``, provision.VerdictNotSent, provision.CauseStatus, maxTries, "Temporary Redirect"},
		"not found":       {404, ``, provision.VerdictNotSent, provision.CauseStatus, maxTries, "Not Found"},
		"no token":        {200, `{}`, provision.VerdictNotSent, provision.CauseNetwork, maxTries, ""},
		"not JSON":        {200, `<html>` + imsSecret, provision.VerdictNotSent, provision.CauseNetwork, maxTries, ""},
		"unsendable":      {200, `{"access_token":"a\nb"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "can't be sent"},
		"error with 200":  {200, `{"error":"server_error"}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "server_error"},
		"error, odd type": {400, `{"error":{"a":1},"error_description":["` + imsSecret + `"]}`, provision.VerdictNotSent, provision.CauseStatus, maxTries, "no answer of IMS itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/stray")
				reply(w, tc.status, tc.body)
			})
			r := newRig(t, addr)
			_, err := r.create(t, imsAccount())
			if err == nil || err.Verdict != tc.verdict || err.Cause != tc.cause || err.Target != provision.TargetIMS || !strings.Contains(err.Error(), tc.says) ||
				err.Passing != (tc.verdict == provision.VerdictDenied) {
				t.Errorf("%+v (%v): want %v, %q, %q", err, err, tc.verdict, tc.cause, tc.says)
			}
			hits.want(t, imsCall, tc.tries)
			hits.want(t, postCall, 0)
			hits.want(t, "POST /stray", 0)
			hits.want(t, "GET /stray", 0)
		})
	}
}

func TestIMSComesBack(t *testing.T) {
	t.Parallel()
	a, n := new(adobe), atomic.Int64{}
	addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < maxTries {
			reply(w, 500, "")
			return
		}
		a.ServeHTTP(w, r)
	})
	r := newRig(t, addr)
	if _, err := r.create(t, imsAccount()); err != nil {
		t.Error(err)
	}
	hits.want(t, imsCall, maxTries)
	hits.want(t, postCall, 1)
	r.retries.want(t, "ims status", maxTries-1)
}

// shutGate keeps callers from IMS, and lets them to the Flow Service.
type shutGate struct{ told atomic.Int64 }

func (g *shutGate) Allow(t provision.Target, _ string) (func(provision.CallEnd), time.Duration) {
	if t == provision.TargetIMS {
		return nil, time.Minute
	}
	return func(provision.CallEnd) { g.told.Add(1) }, 0
}

func TestIMSIsLeftAloneWhileItsCircuitIsOpen(t *testing.T) {
	t.Parallel()
	addr, hits := serve(t, new(adobe).ServeHTTP)
	r := newRig(t, addr, func(c *Config) { c.Gate = new(shutGate) })
	err := callError(t, r.Authorize(t.Context(), imsAccount()))
	if err == nil || err.Verdict != provision.VerdictNotSent || err.Target != provision.TargetIMS || err.RetryAfter != time.Minute {
		t.Errorf("%+v", err)
	}
	hits.want(t, imsCall, 0)
	if err := r.Authorize(t.Context(), staticAccount()); err != nil {
		t.Errorf("static credentials need no IMS: %v", err)
	}
}

// listeningGate lets every call through and hears what it showed.
type listeningGate chan provision.CallEnd

func (g listeningGate) Allow(provision.Target, string) (func(provision.CallEnd), time.Duration) {
	return func(end provision.CallEnd) { g <- end }, 0
}

// TestGateHearsWhatATokenRequestShowed of IMS: nothing, where the client was closed meanwhile.
func TestGateHearsWhatATokenRequestShowed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		want   provision.CallEnd
	}{
		"a token":   {http.StatusOK, provision.CallServed},
		"refused":   {http.StatusUnauthorized, provision.CallServed},
		"throttled": {http.StatusTooManyRequests, provision.CallServed},
		"down":      {http.StatusBadGateway, provision.CallFailed},
		"closed":    {0, provision.CallVoid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate, asked := make(listeningGate, 1), make(chan struct{}, maxTries)
			addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				if tc.status == 0 {
					_, _ = io.Copy(io.Discard, r.Body) // before that the server doesn't see the caller go
					<-r.Context().Done()
					return
				}
				body := `{"access_token":"t","expires_in":3600}`
				if tc.status != http.StatusOK {
					body = `{"error":"invalid_client"}`
				}
				reply(w, tc.status, body)
			})
			r := newRig(t, addr, func(c *Config) { c.Gate = gate })
			go func() { _ = r.Authorize(context.WithoutCancel(t.Context()), imsAccount()) }()
			if <-asked; tc.status == 0 {
				r.Close()
			}
			if got := <-gate; got != tc.want {
				t.Errorf("the call showed %v, want %v", got, tc.want)
			}
		})
	}
}

func TestIMSIsUnreachable(t *testing.T) {
	t.Parallel()
	r := newRig(t, "http://127.0.0.1:1", func(c *Config) { c.DialContext = never(t) })
	_, err := r.Create(t.Context(), imsAccount(), newConnection(), time.Now().Add(30*time.Millisecond))
	r.checkNoLeak(t, err)
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Target != provision.TargetIMS || cerr.Cause != provision.CauseTimeout {
		t.Errorf("%+v: want not sent, for IMS took too long", cerr)
	}
}

func TestClosedClientHasNoTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t, "http://127.0.0.1:1")
	r.Close()
	_, err := r.Create(t.Context(), imsAccount(), newConnection(), time.Now().Add(time.Minute))
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent {
		t.Errorf("%+v: want not sent", cerr)
	}
}

// TestEchoesAreScrubbed has the services say back, in many spellings, every secret of a call.
func TestEchoesAreScrubbed(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{dbxToken, imsSecret, imsToken + "-1"} {
		for name, spell := range map[string]func(string) string{
			"plain": func(s string) string { return s }, "query": url.QueryEscape, "path": url.PathEscape,
			"first part": func(s string) string { return s[:20] }, "base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				a := new(adobe)
				addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/ims/token/v3" {
						a.ServeHTTP(w, r)
						return
					}
					said := spell(secret)
					w.Header().Set("X-Request-Id", said)
					reply(w, 400, fmt.Sprintf(`{"error_code":%q,"message":%q}`, said, "no: "+said))
				})
				_, err := newRig(t, addr).create(t, imsAccount())
				if told := fmt.Sprint(err.Code, err.RequestID, err.Message); strings.Contains(told, spell(secret)) || strings.Contains(told, secret[:scrub.Part]) {
					t.Errorf("%s: leaks %q", name, told)
				}
			})
		}
	}
}

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

// rotation is an IMS at which one client secret is good, and another one after that.
type rotation struct {
	mu   sync.Mutex
	good string
	seen []string // the secrets that it was asked with
}

func (r *rotation) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	secret := req.FormValue("client_secret")
	r.seen = append(r.seen, secret)
	switch {
	case secret != r.good:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"invalid client_secret parameter"}`)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"`+imsToken+`","token_type":"bearer","expires_in":3600}`)
	}
}

// asked returns the secrets of the calls since the last time.
func (r *rotation) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

func (r *rotation) rotate(good string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good = good
}

// TestClientSecretsRotateWithoutAGap: each is tried, the one that worked comes first the next time, and only when
// all are refused is the tenant.
func TestClientSecretsRotateWithoutAGap(t *testing.T) {
	t.Parallel()
	service := &rotation{good: "secret-two"}
	addr, _ := serve(t, service.ServeHTTP)
	r := newRig(t, addr)
	as := imsAccount()
	as.Credentials.ClientSecret = provision.NewSensitive("secret-one")
	as.Credentials.OtherSecrets = []provision.Sensitive{provision.NewSensitive("secret-two"), provision.NewSensitive("secret-three")}
	authorize := func(want ...string) *provision.CallError {
		t.Helper()
		failed := r.Authorize(t.Context(), as)
		r.checkNoLeak(t, failed)
		if diff := cmp.Diff(want, service.asked()); diff != "" {
			t.Errorf("secrets tried (-want +got):\n%s", diff)
		}
		r.drop(as, grant{token: provision.NewSensitive(imsToken)})
		return callError(t, failed)
	}
	if err := authorize("secret-one", "secret-two"); err != nil {
		t.Fatal(err)
	}
	if err := authorize("secret-two"); err != nil {
		t.Fatal(err)
	}
	service.rotate("secret-one")
	if err := authorize("secret-two", "secret-three", "secret-one"); err != nil {
		t.Fatal(err)
	}
	service.rotate("another")
	if err := authorize("secret-one", "secret-two", "secret-three"); err == nil || err.Verdict != provision.VerdictDenied || err.Code != "invalid_client" {
		t.Errorf("all are refused: %+v", err)
	}
}
