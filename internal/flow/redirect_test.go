package flow

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

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
