package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// canary is in every secret value of these tests, so that one that leaks is seen.
const canary = "c4n4ry"

// inMemory carries requests to a handler without a network, so that time in a synctest bubble may
// pass while a handler hangs.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	served := r.Clone(r.Context())
	if served.Body == nil {
		served.Body = http.NoBody
	}
	m.ServeHTTP(rec, served)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// witness collects all that could leak a secret: log lines and errors.
type witness struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed at every write; nil if nobody waits
}

func (w *witness) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	return w.buf.Write(p)
}

// await returns when the text was seen n times.
func (w *witness) await(t *testing.T, text string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		seen := strings.Count(w.buf.String(), text)
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		if seen >= n {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%q was seen %d times, want %d:\n%s", text, seen, n, w)
		}
	}
}

func (w *witness) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// checkSilent fails the test if a secret was seen.
func (w *witness) checkSilent(t *testing.T, secrets ...string) {
	t.Helper()
	seen := w.String()
	for _, s := range append(secrets, canary) {
		if s != "" && strings.Contains(seen, s) {
			t.Errorf("the secret %q leaked:\n%s", s, seen)
		}
	}
}

// harness is a client of an in-memory Vault, running.
type harness struct {
	t       *testing.T
	server  *vaulttest.Server
	client  *Client
	reg     *prometheus.Registry
	witness *witness
	retries []provision.Cause
	mu      sync.Mutex
}

// serverOf returns an in-memory Vault's usual content.
func serverOf(conf vaulttest.Config) *vaulttest.Server {
	s := vaulttest.New(conf)
	s.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "dapi-" + canary, "domain": "https://adb-1.azuredatabricks.net"})
	s.Put("flow/tenants/acme/adobe", map[string]any{"orgId": "ABC123@AdobeOrg", "clientId": "client", "clientSecret": "p8-" + canary})
	s.Put("flow/tenants/other/databricks/acme", map[string]any{"accessToken": "other-" + canary})
	return s
}

// start runs a client of server with conf until the test ends. With an empty conf it has the root
// token and no cache.
func start(t *testing.T, server *vaulttest.Server, conf Config) *harness {
	t.Helper()
	h := &harness{t: t, server: server, reg: prometheus.NewPedanticRegistry(), witness: &witness{}}
	conf.Address = "https://vault.test:8200"
	if conf.Token.IsZero() && conf.TokenFile == "" {
		conf.Token = provision.NewSensitive(server.Token())
	}
	if conf.transport == nil {
		conf.transport = inMemory{server}
	}
	h.run(conf)
	return h
}

// run starts the client and arranges its end.
func (h *harness) run(conf Config) {
	t := h.t
	t.Helper()
	conf.Registerer = h.reg
	conf.Log = slog.New(slog.NewTextHandler(h.witness, &slog.HandlerOptions{Level: slog.LevelDebug}))
	conf.OnRetry = func(_ provision.Target, c provision.Cause) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.retries = append(h.retries, c)
	}
	client, err := New(conf)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	h.client = client
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		h.witness.checkSilent(t, conf.Token.Reveal(), "hvs.")
	})
}

func ref(path, field string) provision.SecretRef {
	return provision.SecretRef{Path: path, Field: field}
}

// resolve reads the usual secret of tenant acme.
func (h *harness) resolve(fresh bool) (provision.Secret, error) {
	h.t.Helper()
	return h.resolveRef(ref("databricks/acme", "accessToken"), fresh)
}

func (h *harness) resolveRef(r provision.SecretRef, fresh bool) (provision.Secret, error) {
	h.t.Helper()
	s, err := h.client.Resolve(h.t.Context(), "acme", r, fresh)
	h.see(s, err)
	return s, err
}

// see shows the witness what a careless caller would print.
func (h *harness) see(v any, err error) {
	fmt.Fprintf(h.witness, "%v %+v %#v %v %+v\n", v, v, v, err, errors.Unwrap(err))
}

// count returns the counter of an operation and a result.
func (h *harness) count(op operation, result string) int {
	return int(testutil.ToFloat64(h.client.session.metrics.requests.WithLabelValues(string(op), result)))
}

// checkProblem fails the test unless err is a SecretError of that kind whose text holds all parts.
func checkProblem(t *testing.T, err error, want provision.SecretProblem, parts ...string) *provision.SecretError {
	t.Helper()
	var got *provision.SecretError
	if !errors.As(err, &got) {
		t.Fatalf("error is %v (%T), want a SecretError of kind %s", err, err, want)
	}
	if got.Problem != want {
		t.Fatalf("error is %v, want kind %s", err, want)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not mention %q", err, p)
		}
	}
	return got
}

func checkValue(t *testing.T, got provision.Secret, err error, want string) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
	if got.Value.Reveal() != want {
		t.Fatalf("value is not %q", want)
	}
}
