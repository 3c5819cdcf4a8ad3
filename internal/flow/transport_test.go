package flow

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
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
