// Package flow is the client of Adobe's Flow Service and of IMS, its token service. It implements
// provision.Connections.
//
// The Flow Service has no idempotency key, so the package's first duty is that one Create is at most
// one POST, and that its error says truthfully whether that POST can have made a connection:
//
//   - Create has a transport of its own (transport.go): HTTP/1.1 or HTTP/2, connections that were idle for no
//     more than a second, no redirects, a body that can't be rewound. Nothing in net/http can then send a POST twice.
//   - Each POST has a fence (fence.go) on its connection. Nothing is written once the POST's time is over, also by
//     a process that was frozen meanwhile, and what was written counts: an error means VerdictNotSent only
//     if not one byte of the request can have left.
//   - Every HTTP status has a written verdict, and so has every code of the Flow Service that matters
//     (verdict.go). What is not listed is unknown.
//
// Calls that are safe to repeat (listing, fetching a token) are repeated here and nowhere else.
//
// Whatever upstream says is scrubbed of the secrets of its call before it gets into an error; answers
// to listings may hold credentials and are never logged.
package flow

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// The defaults of Config.
const (
	// DefaultBaseURL is the Flow Service's public address.
	DefaultBaseURL = "https://platform.adobe.io/data/foundation/flowservice"
	// DefaultIMSURL is the public address of Adobe's token service.
	DefaultIMSURL = "https://ims-na1.adobelogin.com"
	// DefaultTimeout lets the gateway speak first: it gives up at 60 s.
	DefaultTimeout = 75 * time.Second
)

// Config says how a Client reaches its services. The zero value is usable.
type Config struct {
	// BaseURL is the Flow Service's address, without "/connections". Plain http is for loopback
	// addresses only. Empty means DefaultBaseURL.
	BaseURL string
	// IMSURL is the token service's address, without "/ims/token/v3"; the same rule. Empty means
	// DefaultIMSURL.
	IMSURL string
	// Timeout bounds one HTTP call, from dialing to the last byte of the answer. Zero means
	// DefaultTimeout.
	Timeout time.Duration
	// RetryInitial and RetryMax bound the waits before a listing or a token is asked for again: the
	// first wait is RetryInitial on average, each further one twice as long, none is planned above
	// RetryMax, and Retry-After wins where it is longer. Zero means 500 ms and 10 s.
	RetryInitial, RetryMax time.Duration
	// DialContext opens the network connections. Nil means a net.Dialer that gives up after 10 s.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the TLS configuration, for private certificate authorities. Nil means the system's. It
	// is cloned.
	TLS *tls.Config
	// UserAgent is sent with every call to the Flow Service. Empty means "flow-worker".
	UserAgent string
	// Log gets a line for every call, at debug level. Nil means none.
	Log *slog.Logger
	// Registerer gets the metrics. Nil means that they are kept but shown nowhere.
	Registerer prometheus.Registerer
	// Gate is asked before every call to IMS, which only this package knows of: a token is fetched
	// when there is none. Nil lets every call through.
	Gate provision.Gate
	// Trace wraps the transport of calls to a service, "flow" or "ims", so that they show in the trace that
	// their context belongs to; route names what is called without what differs from call to call. Nil
	// means that they don't, but the trace context is passed on all the same.
	Trace func(service, route string, next http.RoundTripper) http.RoundTripper
	// OnRetry is called before a listing or a token request is repeated. It must be quick and safe for
	// concurrent use. Nil means that nobody is. It is not called for POSTs: their repeats are the caller's.
	OnRetry func(provision.Target, provision.Cause)
}

// Client speaks to the Flow Service for many tenants. It keeps their IMS tokens in memory, nothing
// else. All methods are safe for concurrent use. Make one with New, end it with Close.
type Client struct {
	base       *url.URL
	postURL    string // of Create
	timeout    time.Duration
	waits      waits
	userAgent  string
	log        *slog.Logger
	onRetry    func(provision.Target, provision.Cause)
	gate       provision.Gate
	post       http.RoundTripper // for Create alone: see newPostTransport
	postFresh  http.RoundTripper // likewise, with a new connection for every POST
	freshUntil atomic.Int64      // until when postFresh is used, in Unix nanoseconds
	lists      http.RoundTripper // for what may be repeated
	one        http.RoundTripper // for Get
	ims        *ims
	tokens     *tokens
	closeIdle  func()
}

var _ provision.Connections = (*Client)(nil)

// New returns a client. It opens no connection. It fails on an unusable address or setting, and on
// metrics that are registered already.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	base, err := serviceURL("BaseURL", cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	imsURL, err := serviceURL("IMSURL", cfg.IMSURL)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout < 0 || cfg.RetryInitial < 0 || cfg.RetryMax < cfg.RetryInitial {
		return nil, fmt.Errorf("flow: Timeout %v, RetryInitial %v, RetryMax %v: want none negative, and RetryMax not below RetryInitial",
			cfg.Timeout, cfg.RetryInitial, cfg.RetryMax)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	shared := newTransport(cfg, cfg.DialContext)
	post, posts := newPostTransport(cfg)
	fresh, once := newPostTransport(cfg)
	once.DisableKeepAlives = true
	c := &Client{
		base: base, postURL: base.JoinPath("connections").String(), timeout: cfg.Timeout,
		userAgent: cfg.UserAgent, log: cfg.Log, onRetry: cfg.OnRetry, gate: cfg.Gate,
		waits:     waits{initial: cfg.RetryInitial, max: cfg.RetryMax},
		post:      cfg.Trace("flow", "/connections", m.observe(opCreate, post)),
		postFresh: cfg.Trace("flow", "/connections", m.observe(opCreate, fresh)),
		lists:     cfg.Trace("flow", "/connections", m.observe(opList, shared)),
		one:       cfg.Trace("flow", "/connections/{id}", m.observe(opGet, shared)),
		closeIdle: func() {
			shared.CloseIdleConnections()
			posts.CloseIdleConnections()
		},
	}
	c.ims = &ims{
		url:     imsURL.JoinPath("ims", "token", "v3").String(),
		timeout: min(cfg.Timeout, maxTokenTime),
		via:     cfg.Trace("ims", "/ims/token/v3", m.observe(opToken, shared)),
	}
	c.tokens = newTokens(c.fetchToken)
	return c, nil
}

// poster returns what the next POST goes by.
func (c *Client) poster() http.RoundTripper {
	if time.Now().UnixNano() < c.freshUntil.Load() {
		return c.postFresh
	}
	return c.post
}

// noReuseFor is how long no connection is used again after a POST was lost on one that had been, or got
// the answer to another one.
const noReuseFor = 10 * time.Minute

// avoidReuse is called when a POST got no answer, or another's, on a connection that had been used before: the server
// may be one that closes connections after its answer without saying so, or answers twice.
func (c *Client) avoidReuse() { c.freshUntil.Store(time.Now().Add(noReuseFor).UnixNano()) }

// Close gives up token requests that are under way, waits for their end and closes idle connections.
// The client must not be used after it.
func (c *Client) Close() {
	c.tokens.close()
	c.closeIdle()
}

func (cfg Config) withDefaults() Config {
	cfg.BaseURL = cmp.Or(cfg.BaseURL, DefaultBaseURL)
	cfg.IMSURL = cmp.Or(cfg.IMSURL, DefaultIMSURL)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.RetryInitial = cmp.Or(cfg.RetryInitial, 500*time.Millisecond)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, max(10*time.Second, cfg.RetryInitial))
	cfg.UserAgent = cmp.Or(cfg.UserAgent, "flow-worker")
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate == nil {
		cfg.Gate = openGate{}
	}
	if cfg.Trace == nil {
		cfg.Trace = func(_, _ string, next http.RoundTripper) http.RoundTripper { return next }
	}
	if cfg.OnRetry == nil {
		cfg.OnRetry = func(provision.Target, provision.Cause) {}
	}
	return cfg
}

// serviceURL reads a service's address. Credentials go to it, so it has to be https unless it does
// not leave the machine. The address is not quoted in errors if it might hold a password.
func serviceURL(field, s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("flow: %s is no URL; want https://<host>[/path]", field)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Host == "" || u.Opaque != "":
		return nil, fmt.Errorf("flow: %s must be https://<host>[/path], without user, query and fragment", field)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("flow: %s is plain http to %s; want https, for credentials go there", field, u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("flow: %s has the scheme %q; want https", field, u.Scheme)
	}
	return u, nil
}

func loopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// Authorize makes sure that there is a bearer token for the account, fetching one from IMS if need
// be. Static credentials need none.
func (c *Client) Authorize(ctx context.Context, as provision.Account) error {
	if _, err := c.grant(ctx, as); err != nil {
		return err // not returned as it is: a nil *CallError is no nil error
	}
	return nil
}
