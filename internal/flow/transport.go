package flow

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// newTransport returns a transport that speaks HTTP/2 where the server offers it over TLS, else HTTP/1.1.
func newTransport(cfg Config, dial dialFunc) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		tlsConfig = cfg.TLS.Clone()
	}
	if tlsConfig.ClientSessionCache == nil {
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0) // spares most of a POST's handshake; crypto/tls sends no early data
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// An HTTP/2 connection that brought nothing for pingAfter has to answer a ping within pingTimeout. Else it is closed:
// where packets are dropped silently, net/http would give it new requests for as long as the kernel repeats the old ones.
const (
	pingAfter   = 15 * time.Second
	pingTimeout = 15 * time.Second
)

// idleLife is how long a connection may have been idle that a POST is sent by. It is shorter than the idle timeout
// of any gateway known to us (Gunicorn's, the shortest, is 2 s): should that hit just when the POST is written, its
// outcome is unknown.
const idleLife = time.Second

// newPostTransport returns the transport of Create, with a fence around each request. net/http repeats no POST by
// itself but one of which it wrote nothing: for what a server refuses (GOAWAY, REFUSED_STREAM) it would need GetBody,
// which request leaves out, and the body can be read only once. The second try has the same fence.
func newPostTransport(cfg Config) (http.RoundTripper, *http.Transport) {
	t := newTransport(cfg, fencedDial(cfg.DialContext))
	t.IdleConnTimeout = idleLife
	t.MaxIdleConnsPerHost = maxIdle
	return &fewDials{next: t, slots: make(chan struct{}, 16), http1: make(chan struct{})}, t
}

// fewDials lets few requests at a time wait for a connection. net/http dials one for each request that finds none with
// room, and only then learns that HTTP/2 makes most of them useless: for 2,000 POSTs it dials 4,500 instead of 19. A
// server that speaks HTTP/1.1 needs one for each, so there the limit ends with the first connection.
type fewDials struct {
	next  http.RoundTripper
	slots chan struct{}
	http1 chan struct{} // closed when the server was seen not to speak HTTP/2
	once  sync.Once
}

// RoundTrip implements http.RoundTripper.
func (d *fewDials) RoundTrip(r *http.Request) (*http.Response, error) {
	release := func() {}
	select {
	case <-d.http1:
	case d.slots <- struct{}{}:
		release = sync.OnceFunc(func() { <-d.slots })
	case <-r.Context().Done():
		_ = r.Body.Close()
		return nil, r.Context().Err()
	}
	defer release()
	return d.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if !speaksHTTP2(got.Conn) {
				d.once.Do(func() { close(d.http1) })
			}
			release()
		},
	})))
}

// maxIdle is more than there are slots: connections are few where few POSTs are under way.
const maxIdle = 16_384

var errUpgraded = errors.New("the answer is 101, so it is none: the server wants to speak something else")

// imsTransport does for the library that fetches tokens what request and exchange do for other calls: it passes on the
// trace context that a call is made in, and fails one that is answered with 101, whose body is the connection: no
// deadline ends the reading of that.
type imsTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t imsTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if e := provision.PurposeOf(r.Context()); e != nil {
		r = r.Clone(r.Context())
		e.Trace.Inject(r.Header.Set)
	}
	res, err := t.next.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		_ = res.Body.Close()
		return nil, errUpgraded
	}
	return res, err
}
