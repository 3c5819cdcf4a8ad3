package flow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// resumptions is a TLS server that takes down of every request whether its connection began with a
// session of an earlier one.
func resumptions(t testing.TB) (*httptest.Server, func() []bool) {
	t.Helper()
	resumed := make(chan bool, 1<<20)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed <- r.TLS.DidResume
		reply(w, http.StatusCreated, `{"id":"c-1","etag":"e-1"}`)
	}))
	t.Cleanup(srv.Close)
	return srv, func() (all []bool) {
		for len(resumed) > 0 {
			all = append(all, <-resumed)
		}
		return all
	}
}

func trusting(srv *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// Only the first connection has a whole handshake.
func TestPostsResumeTheirSession(t *testing.T) {
	t.Parallel()
	srv, seen := resumptions(t)
	srv.Config.SetKeepAlivesEnabled(false)
	r := newRig(t, srv.URL, func(cfg *Config) { cfg.TLS = trusting(srv) })
	for range 3 {
		if _, err := r.create(t, staticAccount()); err != nil {
			t.Fatal(err)
		}
	}
	if got := seen(); len(got) != 3 || got[0] || !got[1] || !got[2] {
		t.Errorf("resumed: %v, want all but the first", got)
	}
}

// BenchmarkPostOverTLS is one POST with its handshake, the server's part of both included.
func BenchmarkPostOverTLS(b *testing.B) {
	srv, _ := resumptions(b)
	c, err := New(Config{BaseURL: srv.URL, TLS: trusting(srv)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	for b.Loop() {
		if _, err := c.Create(b.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
}

// calls is what the metrics say of the answered calls of one operation.
type calls struct {
	exemplars []string // the values of their labels
	classic   int      // buckets
	native    int      // spans of them
}

func (r *rig) calls(t *testing.T, name string, op operation) (c calls) {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || m.GetLabel()[0].GetValue() != "2xx" || m.GetLabel()[1].GetValue() != string(op) {
				continue
			}
			for _, l := range m.GetCounter().GetExemplar().GetLabel() {
				c.exemplars = append(c.exemplars, l.GetValue())
			}
			for _, b := range m.GetHistogram().GetBucket() {
				c.classic++
				for _, l := range b.GetExemplar().GetLabel() {
					c.exemplars = append(c.exemplars, l.GetValue())
				}
			}
			c.native += len(m.GetHistogram().GetPositiveSpan())
		}
	}
	return c
}

// A call leads to the trace of the request that it was made for, and a call without one to none.
func TestExemplarsOfCalls(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string][]string{"00-" + id + "-b7ad6b7169203331-01": {id}, "00-" + id + "-b7ad6b7169203331-00": nil, "": nil, "00-\xff-\xff-01": nil} {
		a := new(adobe)
		addr, _ := serve(t, a.ServeHTTP)
		r := newRig(t, addr)
		as := imsAccount()
		as.Trace = provision.Trace{Parent: parent}
		if _, err := r.Create(t.Context(), as, newConnection(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"flow_worker_flow_requests_total", "flow_worker_flow_request_duration_seconds"} {
			if got := r.calls(t, name, opCreate).exemplars; !slices.Equal(got, want) {
				t.Errorf("traceparent %q: %s has the exemplars %q, want %q", parent, name, got, want)
			}
		}
		if c := r.calls(t, "flow_worker_flow_request_duration_seconds", opCreate); c.classic == 0 || c.native == 0 {
			t.Errorf("the duration is no histogram of both kinds: %+v", c)
		}
		if got := r.calls(t, "flow_worker_flow_requests_total", opToken).exemplars; got != nil {
			t.Errorf("the token, which several share, has the exemplars %q", got)
		}
	}
}

const tracedParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// traceHeaders writes down which trace contexts a server is called with.
type traceHeaders struct {
	mu    sync.Mutex
	heard map[string][]string // :: path → contexts; guarded by mu
}

func (h *traceHeaders) in(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		if h.heard == nil {
			h.heard = map[string][]string{}
		}
		h.heard[r.URL.Path] = append(h.heard[r.URL.Path], r.Header.Get("Traceparent")+" "+r.Header.Get("Tracestate"))
		h.mu.Unlock()
		next(w, r)
	}
}

// tracedErrand is a context as the hub's calls have it, and the account with it.
func tracedErrand(ctx context.Context) (context.Context, provision.Account) {
	e := &provision.Purpose{
		Key: provision.Key{Tenant: "acme", Source: "/s", ID: "i-1"}, Seq: 3, Delivered: 2, Attempt: 4,
		Trace: provision.Trace{Parent: tracedParent, State: "a=b"},
	}
	as := imsAccount()
	as.Trace = e.Trace
	return e.Into(ctx), as
}

// The trace context goes to IMS as to the Flow Service, and the log says what the call was for.
func TestTraceGoesToBothServices(t *testing.T) {
	t.Parallel()
	a, heard := new(adobe), new(traceHeaders)
	addr, _ := serve(t, heard.in(a.ServeHTTP))
	r := newRig(t, addr)
	ctx, as := tracedErrand(t.Context())
	if _, err := r.Create(ctx, as, newConnection(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"/ims/token/v3": {tracedParent + " a=b"}, "/flow/connections": {tracedParent + " a=b"}}
	if diff := cmp.Diff(want, heard.heard); diff != "" {
		t.Errorf("trace contexts (-want +got):\n%s", diff)
	}
	for _, field := range []string{`"tenant":"acme"`, `"source":"/s"`, `"id":"i-1"`, `"seq":3`, `"delivered":2`, `"attempt":4`, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`} {
		if !strings.Contains(r.log.String(), field) {
			t.Errorf("no %s in the log:\n%s", field, r.log.String())
		}
	}
}

// Config.Trace sees the calls to both services before anything else does; its trace context counts.
func TestTransportsCanBeWrapped(t *testing.T) {
	t.Parallel()
	const inner = "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01"
	a, heard := new(adobe), new(traceHeaders)
	addr, _ := serve(t, heard.in(a.ServeHTTP))
	var mu sync.Mutex
	var seen []string
	r := newRig(t, addr, func(c *Config) {
		c.Trace = func(service, route string, next http.RoundTripper) http.RoundTripper {
			return wrapped(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				seen = append(seen, service+" "+req.Method+" "+route)
				mu.Unlock()
				req = req.Clone(req.Context())
				req.Header.Set("Traceparent", inner)
				return next.RoundTrip(req)
			})
		}
	})
	ctx, as := tracedErrand(t.Context())
	if _, err := r.Create(ctx, as, newConnection(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Find(ctx, as, provision.Query{Names: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ims POST /ims/token/v3", "flow POST /connections", "flow GET /connections"}; !slices.Equal(seen, want) {
		t.Errorf("calls %q, want %q", seen, want)
	}
	for path, contexts := range heard.heard {
		for _, c := range contexts {
			if !strings.HasPrefix(c, inner) {
				t.Errorf("%s was called with %q", path, c)
			}
		}
	}
}

type wrapped func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f wrapped) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A fetch of a token goes on for others when the caller that began it gives up, and knows whom it was begun
// for.
func TestFetchKnowsWhomItWasBegunFor(t *testing.T) {
	t.Parallel()
	begun, let := make(chan *provision.Purpose), make(chan struct{})
	ts := newTokens(func(ctx context.Context, _ provision.Credentials) (bearer, *provision.CallError) {
		begun <- provision.PurposeOf(ctx)
		<-let
		if err := ctx.Err(); err != nil {
			t.Error(err)
		}
		return bearer{token: provision.NewSensitive("t"), got: time.Now(), expiresAt: time.Now().Add(time.Hour)}, nil
	})
	defer ts.close()
	ctx, as := tracedErrand(t.Context())
	ctx, give := context.WithCancel(ctx)
	gone := make(chan *provision.CallError)
	go func() {
		_, err := ts.get(ctx, as.Credentials)
		gone <- err
	}()
	if e := <-begun; e == nil || e.Key.ID != "i-1" {
		t.Errorf("the fetch was begun for %+v", e)
	}
	give()
	if err := <-gone; err == nil {
		t.Error("the caller that gave up got a token")
	}
	close(let)
	if _, err := ts.get(t.Context(), as.Credentials); err != nil {
		t.Errorf("another caller: %v", err)
	}
}
