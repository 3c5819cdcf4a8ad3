package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// maxAnswer is how much of an answer is read, in bytes. Vault's storage refuses entries above 1 MiB.
const maxAnswer = 2 << 20

// errRedirected is the error of a call that was answered with a redirect. Its place is not told, for it
// is upstream's text.
var errRedirected = errors.New("the answer of Vault, or of what stands before it, redirects to another address, and no credential goes there; " +
	"set VAULT_ADDR to one that answers itself, and let standbys forward requests")

// errUpgraded is the error of a call that was answered with 101: the body is the connection then, and no
// deadline ends the reading of that.
var errUpgraded = errors.New("the answer of Vault, or of what stands before it, is 101: it wants to speak something else than HTTP")

// traced passes the trace context on of what a request is made for, as those to other services have it:
// Vault does not look at it, but what stands before it may. It leaves one that is there already.
type traced struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	if e := provision.ErrandOf(r.Context()); e != nil && r.Header.Get("Traceparent") == "" {
		r = r.Clone(r.Context())
		e.Trace.Inject(r.Header.Set)
	}
	return t.next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t traced) CloseIdleConnections() { closeIdle(t.next) }

// routeOf returns what a request asks for without the names that are in its path.
func routeOf(r *http.Request) string {
	if system, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/"); system == "sys" || system == "auth" {
		return "/v1/" + system + "/{path}"
	}
	return "/v1/{mount}/{path}"
}

// limitedTransport fails the reading of answers above maxAnswer, lets no redirect through, and ends
// every request with life: Vault's LifetimeWatcher has no context of its own.
type limitedTransport struct {
	next http.RoundTripper
	life context.Context
}

// RoundTrip implements http.RoundTripper.
func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	unbind := context.AfterFunc(t.life, cancel)
	end := func() { unbind(); cancel() }
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end()
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close()
		end()
		return nil, errRedirected
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		end()
		return nil, errUpgraded
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxAnswer, end: end}
	return resp, nil
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t limitedTransport) CloseIdleConnections() { closeIdle(t.next) }

type limitedBody struct {
	io.ReadCloser
	left int
	end  func() // of the request
}

// Close implements io.Closer.
func (b *limitedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// Read implements io.Reader.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// systemClock is the real time.
type systemClock struct{}

// Now implements provision.Clock.
func (systemClock) Now() time.Time { return time.Now() }

// Sleep implements provision.Clock.
func (systemClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
