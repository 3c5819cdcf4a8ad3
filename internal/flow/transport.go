package flow

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// newTransport returns a transport that speaks HTTP/1.1 only: with one call per connection, a dead
// connection fails one call, not all of them.
func newTransport(cfg Config, dial dialFunc) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		tlsConfig = cfg.TLS.Clone()
	}
	if tlsConfig.ClientSessionCache == nil {
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) // spares most of a POST's handshake; crypto/tls sends no early data
	}
	return &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		Protocols:              protocols,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// newPostTransport returns the transport of Create. It never uses a connection twice: on a used one
// the server's idle timeout may hit just when the POST is written, which would make its outcome
// unknown, and net/http repeats requests by itself on used connections only. A handshake is cheap
// beside what a POST costs the Flow Service. The fence relies on it to tell that nothing was sent, and
// no longer says so where it finds a used connection.
func newPostTransport(cfg Config) *http.Transport {
	t := newTransport(cfg, fencedDial(cfg.DialContext))
	t.DisableKeepAlives = true
	return t
}

// traced passes the trace context on of what a call is made for. It leaves one that is there already.
type traced struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	if e := provision.ErrandOf(r.Context()); e != nil && r.Header.Get("Traceparent") == "" {
		r = r.Clone(r.Context())
		e.Trace.Inject(r.Header.Set)
	}
	return t.next.RoundTrip(r)
}

var errUpgraded = errors.New("the answer is 101, so it is none: the server wants to speak something else")

// finalOnly fails a call that is answered with 101, for the library that reads the answer: its body is
// the connection, and no deadline ends the reading of that.
type finalOnly struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t finalOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close()
		return nil, errUpgraded
	}
	return res, err
}
