package flow

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

func retrier(onRetry func(provision.Target, provision.Cause)) *Client {
	return &Client{waits: waits{initial: 500 * time.Millisecond, max: 10 * time.Second}, onRetry: onRetry}
}

func throttled(after time.Duration) *provision.CallError {
	return &provision.CallError{Verdict: provision.VerdictThrottled, Target: provision.TargetFlow, Cause: provision.CauseThrottled, RetryAfter: after}
}

func TestRepeatWaitsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		c := retrier(func(provision.Target, provision.Cause) {})
		err := c.repeat(t.Context(), func() *provision.CallError {
			at = append(at, time.Now())
			return throttled(25 * time.Second)
		})
		if err == nil || len(at) != maxTries {
			t.Fatalf("%v after %d tries, want %d", err, len(at), maxTries)
		}
		for i := range len(at) - 1 {
			if d := at[i+1].Sub(at[i]); d != 25*time.Second {
				t.Errorf("pause %d: %v, want 25 s", i, d)
			}
		}
	})
}

func TestRepeatBoundsItsPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, told := time.Now(), 0
		c := retrier(func(target provision.Target, cause provision.Cause) {
			if told++; target != provision.TargetFlow || cause != provision.CauseThrottled {
				t.Errorf("told of %s, %s", target, cause)
			}
		})
		_ = c.repeat(t.Context(), func() *provision.CallError { return throttled(0) })
		if d := time.Since(began); d > 7*time.Second { // twice 0.5 + 1 + 2 s
			t.Errorf("took %v, want at most 7 s", d)
		}
		if told != maxTries-1 {
			t.Errorf("told of %d repeats, want %d", told, maxTries-1)
		}
	})
}

// TestRepeatKeepsTheCause: where the context ends first, the error is still the call's own.
func TestRepeatKeepsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			end   func() (context.Context, context.CancelFunc)
			after time.Duration
		}{
			"no time for the pause": {func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 5*time.Second) }, 6 * time.Second},
			"canceled in the pause": {func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, 6 * time.Second},
			"too long a pause": {func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, maxPause + 1},
		} {
			ctx, cancel := tc.end()
			tries := 0
			err := retrier(func(provision.Target, provision.Cause) {}).repeat(ctx, func() *provision.CallError {
				tries++
				return throttled(tc.after)
			})
			cancel()
			if err == nil || err.Verdict != provision.VerdictThrottled || err.RetryAfter != tc.after || tries != 1 {
				t.Errorf("%s: %+v after %d tries", name, err, tries)
			}
		}
	})
}

func TestRepeatDoesNotBeginLate(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := retrier(nil).repeat(ctx, func() *provision.CallError {
		t.Error("called")
		return nil
	})
	if err == nil || err.Verdict != provision.VerdictNotSent {
		t.Errorf("%+v: want not sent", err)
	}
}

func TestRepeatStopsAtAnAnswer(t *testing.T) {
	t.Parallel()
	for _, v := range []provision.Verdict{provision.VerdictNotReady, provision.VerdictUnauthorized, provision.VerdictDenied, provision.VerdictRejected} {
		tries := 0
		err := retrier(nil).repeat(t.Context(), func() *provision.CallError {
			tries++
			return &provision.CallError{Verdict: v}
		})
		if err == nil || err.Verdict != v || tries != 1 {
			t.Errorf("%v: %+v after %d tries, want 1", v, err, tries)
		}
	}
}

func TestMessageIsBounded(t *testing.T) {
	t.Parallel()
	got := scrubber{}.message(strings.Repeat("ä", 3000))
	if n := len([]rune(got)); n != maxMessage || !strings.HasSuffix(got, "…") {
		t.Errorf("%d characters, want %d", n, maxMessage)
	}
}

// TestAnAccountsSecretsAreInPlay looks for each secret of an account in what is told of a call for it.
func TestAnAccountsSecretsAreInPlay(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"clientSecret": canary.New(), "accessToken": canary.New(), "apiKey": canary.Plain(),
		"clientId": canary.Plain(), "more": canary.New()}
	hunt := canary.NewHunt(secrets)
	s := scrubberOf(provision.Credentials{
		ClientSecret: provision.NewSensitive(secrets["clientSecret"]), AccessToken: provision.NewSensitive(secrets["accessToken"]),
		APIKey: secrets["apiKey"], ClientID: secrets["clientId"],
	}, provision.NewSensitive(secrets["more"]))
	for name, secret := range secrets {
		if hunt.Search("planted", "said "+secret) != 1 {
			t.Fatalf("the hunt for %s finds nothing", name)
		}
		if n := hunt.Search("told", s.message("said "+secret)+s.id("a-"+secret, 500)+etag("a-"+secret, s)); n != 0 {
			t.Errorf("%s: %+v", name, hunt.Hits())
		}
	}
	short := scrubberOf(provision.Credentials{APIKey: "api-key", ClientID: "client"})
	if got := short.message("wrong api-key for client"); got != "wrong api-key for client" {
		t.Errorf("got %q", got)
	}
}

// TestNothingOfAForeignBodyIsTold gives answers that are none of the service's.
func TestNothingOfAForeignBodyIsTold(t *testing.T) {
	t.Parallel()
	secret := canary.Plain() // of nobody whom the scrubber knows
	for _, body := range []string{
		secret, "<html><title>" + secret + "</title>", `{"message":"` + secret, `"` + secret + `"`, `["` + secret + `"]`,
		`{"accessToken":"` + secret + `"}`, `{"message":{"text":"` + secret + `"}}`, "\x1f\x8b" + secret, `{"message":"a"}` + secret,
		`{"request":{"auth":{"params":{"accessToken":"` + secret + `"}}},"message":"m"}`, `{"report":{"message":"` + secret + `"}}`,
	} {
		for _, status := range []int{200, 302, 400, 401, 403, 500} {
			err := judge(answer{status: status, body: []byte(body)}, scrubber{})
			if told := fmt.Sprintf("%v %+v", err, *err); strings.Contains(told, secret) {
				t.Errorf("HTTP %d, %s: %s", status, body, told)
			}
		}
	}
}

func TestNetworkErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()
	for in, want := range map[error]string{
		fmt.Errorf("net/http: malformed HTTP response %q", secret):           "net/http: malformed HTTP response (the answer isn't quoted here)",
		fmt.Errorf("malformed MIME header line: X: %s", secret):              "(the answer isn't quoted here)",
		fmt.Errorf("oauth2: cannot parse json: invalid character '%s'", "x"): "oauth2: cannot parse json: (the answer isn't quoted here)",
		&net.OpError{Op: "dial", Net: "tcp", Err: errors.New(`lookup "x"`)}:  `dial tcp: lookup "x"`,
		&net.DNSError{Err: "no such host", Name: "h"}:                        "lookup h: no such host",
		errTooLong: "the answer is too long",
	} {
		if got := newNetError(in, scrubber{}).Error(); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

// FuzzMessage hides a secret between two texts: what is told is short, on one line, and without it.
func FuzzMessage(f *testing.F) {
	f.Add("a", "b", "0123456789abcdef")
	f.Add("%", "25", "%25%25%25%25%25%25")
	f.Add("\xcc", "0", "\xab00000000000")
	f.Add("0", "\x89", "0 0 0 0 0 00")
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		seen := strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' {
				return -1
			}
			return r
		}, secret)
		if len(seen) < scrub.Part || len(secret) > 200 || strings.Contains(provision.Redacted, secret) || !utf8.ValidString(secret) {
			t.Skip() // secrets are strings of JSON or of printable ASCII
		}
		got := newScrubber(provision.NewSensitive(secret)).message(before + secret + after)
		checkTold(t, problem{message: strings.ReplaceAll(got, provision.Redacted, "")}, secret)
	})
}

// trap is where redirects lead. It takes down everything that arrives.
type trap struct {
	*httptest.Server
	mu  sync.Mutex
	got []string
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	tr := new(trap)
	tr.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.got = append(tr.got, fmt.Sprint(r.Method, r.URL, r.Header, string(body)))
		reply(w, 201, `{"id":"c-trap","etag":"e","access_token":"trap","token_type":"bearer","expires_in":3600,"items":[]}`)
	}))
	t.Cleanup(tr.Close)
	return tr
}

func (tr *trap) arrivals() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.got
}

// redirector answers what is asked for at or below from with a redirect to the place that the trap is at,
// everything else as Adobe does, and counts who comes to /elsewhere of its own.
func redirector(t *testing.T, tlsToo bool, from string, status int, to func(own string) string) (*httptest.Server, *tally) {
	t.Helper()
	a, hits := new(adobe), new(tally)
	var srv *httptest.Server
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.add(r.URL.Path)
		if strings.HasPrefix(r.URL.Path, from) {
			http.Redirect(w, r, to(srv.URL), status)
			return
		}
		a.ServeHTTP(w, r)
	})
	if srv = httptest.NewServer(h); tlsToo {
		srv.Close()
		srv = httptest.NewTLSServer(h)
	}
	t.Cleanup(srv.Close)
	return srv, hits
}

// TestRedirectsAreNotFollowed has each of the calls redirected, in every way, to each kind of place.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	tr := newTrap(t)
	port := tr.URL[strings.LastIndex(tr.URL, ":"):]
	places := map[string]func(string) string{
		"same host, other port": func(string) string { return tr.URL + "/elsewhere" },
		"other host":            func(string) string { return "http://localhost" + port + "/elsewhere" },
		"user info":             func(string) string { return "http://user:pass@127.0.0.1" + port + "/elsewhere" },
		"no scheme":             func(string) string { return "//127.0.0.1" + port + "/elsewhere" },
		"same server":           func(own string) string { return own + "/elsewhere" },
	}
	for place, to := range places {
		for _, status := range []int{301, 302, 303, 307, 308} {
			for call, path := range map[string]string{"create": "/flow/connections", "list": "/flow/connections", "token": "/ims/token/v3"} {
				for _, secure := range []bool{false, true} {
					t.Run(fmt.Sprint(call, " ", status, " ", place, " TLS ", secure), func(t *testing.T) {
						t.Parallel()
						srv, hits := redirector(t, secure, path, status, to)
						checkNotFollowed(t, call, srv, status)
						hits.want(t, "/elsewhere", 0)
					})
				}
			}
		}
	}
	t.Cleanup(func() {
		if got := tr.arrivals(); len(got) != 0 {
			t.Errorf("%d requests arrived where redirects lead; the first: %s", len(got), got[0])
		}
	})
}

// checkNotFollowed makes a call that is redirected, and wants the error to say so.
func checkNotFollowed(t *testing.T, call string, srv *httptest.Server, status int) {
	t.Helper()
	r := newRig(t, srv.URL, func(c *Config) {
		c.TLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	})
	var err *provision.CallError
	if call == "list" {
		_, err = r.find(t, imsAccount(), provision.Query{Names: []string{"n"}})
	} else {
		_, err = r.create(t, imsAccount())
	}
	want := provision.VerdictUnknown // 303 is what some services say after a creation
	if call == "token" {
		want = provision.VerdictNotSent
	}
	if err == nil || err.Verdict != want || err.Status != status {
		t.Errorf("got %+v, want HTTP %d and verdict %v", err, status, want)
	}
}

// TestTheTrapWorks: a client that follows redirects is caught.
func TestTheTrapWorks(t *testing.T) {
	t.Parallel()
	tr := newTrap(t)
	srv, _ := redirector(t, false, "/flow", 307, func(string) string { return tr.URL + "/elsewhere" })
	resp, err := http.Post(srv.URL+"/flow/connections", "application/json", strings.NewReader("secret body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := tr.arrivals(); len(got) != 1 || !strings.Contains(got[0], "secret body") {
		t.Errorf("the trap got %q", got)
	}
	http.DefaultClient.CloseIdleConnections()
}
