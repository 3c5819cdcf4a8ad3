package consumer

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/net/proxy"
)

// ConnConfig says how to reach NATS. Every file is optional, and every one is read again for each new
// connection to a server, so that it may be replaced under a running worker. A file that can't be used
// by then is logged and tried again with the next attempt.
type ConnConfig struct {
	URL   string // one or several, separated by commas
	Name  string // shown by the server's monitoring
	Creds string // file with JWT and seed
	NKey  string // file with a seed
	CA    string // PEM file with the roots to trust
	Cert  string // PEM file with the client's certificate; needs Key
	Key   string // PEM file with its key; needs Cert

	User, Password string // of a server with passwords; what the URL has beats them
	Token          string // likewise
	JWT, Seed      string // as in a Creds file
	TLSFirst       bool   // begin with TLS, before the server has greeted
	InboxPrefix    string // where answers come in; empty means the user's OwnInbox
	SocksProxy     string // URL of a SOCKS proxy; empty means none

	Domain    string // JetStream domain; empty means the server's own
	APIPrefix string // likewise, as the beginning of JetStream's subjects; not beside Domain

	Remedy func(error) string // says what to do after an error, empty for nothing; nil means that nobody knows
	Log    *slog.Logger       // nil means no log
}

const (
	connectTimeout   = 5 * time.Second
	reconnectWait    = 500 * time.Millisecond
	reconnectJitter  = time.Second
	pingInterval     = 20 * time.Second // a dead connection is noticed after three of them
	drainTimeout     = 15 * time.Second
	reconnectForever = -1
)

// Connect connects to NATS and stays connected: it never gives up, neither at the start nor later, so
// a server that isn't there is no error; ask IsConnected. Its error speaks of the configuration only.
// Answers come in at the user's OwnInbox. The caller has to drain or close the connection.
func Connect(cfg ConnConfig) (*nats.Conn, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	opts, err := cfg.Options()
	if err != nil {
		return nil, fmt.Errorf("consumer: NATS connection: %w", err)
	}
	opts = append(opts, nats.Timeout(connectTimeout), nats.PingInterval(pingInterval), nats.DrainTimeout(drainTimeout),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(reconnectForever),
		nats.IgnoreAuthErrorAbort()) // credentials rotate; the next try reads the files again
	r := &reconnecting{log: cfg.Log, seedFile: cfg.NKey, remedy: cfg.Remedy}
	if r.dialer, err = cfg.dialer(); err != nil {
		return nil, fmt.Errorf("consumer: NATS connection: %w", err)
	}
	opts = append(append(opts, cfg.handlers()...), r.options()...)
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("consumer: NATS connection: %w", err)
	}
	r.conn.Store(nc)
	return nc, nil
}

// JetStream returns the JetStream that the streams are in.
func (c ConnConfig) JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	switch {
	case c.Domain != "":
		return jetstream.NewWithDomain(nc, c.Domain)
	case c.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, c.APIPrefix)
	default:
		return jetstream.New(nc)
	}
}

// APISubject returns the subject on which js asks for something of JetStream's API, such as "STREAM.INFO.X".
func APISubject(js jetstream.JetStream, what string) string {
	opts := js.Options()
	switch {
	case opts.Domain != "":
		return "$JS." + opts.Domain + ".API." + what
	case opts.APIPrefix != "":
		return strings.TrimSuffix(opts.APIPrefix, ".") + "." + what
	default:
		return "$JS.API." + what
	}
}

// Options says who connects and how a server is reached; when and how often is up to the caller.
func (c ConnConfig) Options() ([]nats.Option, error) {
	opts, err := c.credentials()
	if err != nil {
		return nil, err
	}
	opts = append(opts, nats.Name(c.Name))
	if c.TLSFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	if c.SocksProxy != "" {
		dialer, err := c.dialer()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.SetCustomDialer(dialer), nats.SkipHostLookup()) // the proxy knows the names
	}
	if c.InboxPrefix != "" {
		return append(opts, nats.CustomInboxPrefix(c.InboxPrefix)), nil
	}
	return append(opts, OwnInbox()), nil
}

// dialer returns what connects to a server, or to the proxy on the way.
func (c ConnConfig) dialer() (nats.CustomDialer, error) {
	direct := &net.Dialer{Timeout: connectTimeout}
	if c.SocksProxy == "" {
		return direct, nil
	}
	at, err := url.Parse(c.SocksProxy)
	if err != nil {
		return nil, errors.New("the SOCKS proxy has no URL")
	}
	return proxy.FromURL(at, direct)
}

func (c ConnConfig) credentials() ([]nats.Option, error) {
	var opts []nats.Option
	for _, file := range []string{c.Creds, c.NKey, c.CA, c.Cert, c.Key} {
		if file == "" {
			continue
		}
		if f, err := os.Open(file); err != nil {
			return nil, err
		} else if err := f.Close(); err != nil {
			return nil, err
		}
	}
	switch {
	case c.Creds != "":
		opts = append(opts, nats.UserCredentials(c.Creds))
	case c.NKey != "":
		nkey, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("the file %s holds no NKey seed: %w", c.NKey, err)
		}
		opts = append(opts, nkey)
	case c.JWT != "":
		opts = append(opts, nats.UserJWTAndSeed(c.JWT, c.Seed))
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	case c.Token != "":
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("a client certificate and its key are needed together")
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	return opts, nil
}

// handlers log what becomes of the connection. URLs are logged without user and password.
func (c ConnConfig) handlers() []nats.Option {
	log := c.Log
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) { log.Info("NATS connected", "url", nc.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("NATS disconnected", "error", err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("NATS reconnected", "url", nc.ConnectedUrlRedacted()) }),
		nats.ClosedHandler(func(*nats.Conn) { log.Info("NATS connection closed") }),
		nats.LameDuckModeHandler(func(*nats.Conn) { log.Info("the NATS server is about to shut down") }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("NATS reports an error", "error", err, "subject", subject)
		}),
	}
}

// reconnecting adds to a connection what nats.go leaves out when it connects again: a word on why a
// login fails, and the public key of a seed file that was replaced.
type reconnecting struct {
	log      *slog.Logger
	seedFile string                    // empty without NKey
	dialer   nats.CustomDialer         // what connects
	remedy   func(error) string        // nil means that nobody knows any
	conn     atomic.Pointer[nats.Conn] // nil until Connect returns

	mu   sync.Mutex
	last string // the last trouble that was warned of
}

func (r *reconnecting) options() []nats.Option {
	opts := []nats.Option{
		nats.CustomReconnectDelay(func(int) time.Duration { return r.delay() }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { r.warn(err) }),
	}
	if r.seedFile != "" {
		opts = append(opts, nats.SetCustomDialer(r))
	}
	return opts
}

// delay is how long to wait after all servers were tried. It is also the place to learn why a login
// failed: nats.go has no handler for that.
func (r *reconnecting) delay() time.Duration {
	if nc := r.conn.Load(); nc != nil {
		if err := nc.LastError(); err != nil {
			r.warn(err)
		}
	}
	return reconnectWait + rand.N(reconnectJitter)
}

// warn logs a trouble that is not the one before; there are up to two attempts a second.
func (r *reconnecting) warn(err error) {
	level := slog.LevelDebug
	r.mu.Lock()
	if text := err.Error(); text != r.last {
		r.last, level = text, slog.LevelWarn
	}
	r.mu.Unlock()
	attrs := []any{"error", err}
	if r.remedy != nil && r.remedy(err) != "" {
		attrs = append(attrs, "remedy", r.remedy(err))
	}
	r.log.Log(context.Background(), level, "NATS is not reached yet", attrs...)
}

// Dial implements nats.CustomDialer. nats.go signs with the seed that the file holds at the time, but
// sends the public key of the first one along. It dials before every login, with the connection's lock
// held, which makes the assignment safe.
func (r *reconnecting) Dial(network, address string) (net.Conn, error) {
	if nc := r.conn.Load(); nc != nil {
		if key, err := publicKey(r.seedFile); err == nil { // else the signature fails, and says why
			nc.Opts.Nkey = key
		}
	}
	return r.dialer.Dial(network, address)
}

// publicKey returns the key that belongs to the seed in the file.
func publicKey(seedFile string) (string, error) {
	use, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		return "", err
	}
	var o nats.Options
	err = use(&o)
	return o.Nkey, err
}

// OwnInbox returns an option that has a connection await its answers below "_INBOX.<name>", where the
// server can be told to let nobody else listen. A user that may listen to all of "_INBOX.>" can do that,
// too. The name is what the user is known by: that of the credentials, the public key of an NKey, the
// name in the URL or in the options; bytes other than letters, digits, "_" and "-" are written as "=XX".
// It stays what it was at the start, whatever the credentials are replaced by. Who has no name, only a
// token or a certificate, gets the ordinary inbox, below "_INBOX". It must be the last option.
func OwnInbox() nats.Option {
	return func(o *nats.Options) error {
		if name := userName(o); name != "" {
			o.InboxPrefix = nats.InboxPrefix + inboxToken(name)
		}
		return nil
	}
}

// userName returns how the server knows the user, as far as that is known here.
func userName(o *nats.Options) string {
	if o.UserJWT != nil {
		if token, err := o.UserJWT(); err == nil { // else the login fails, and says why
			return jwtName(token)
		}
	}
	if o.Nkey != "" {
		return o.Nkey
	}
	for _, server := range append([]string{o.Url}, o.Servers...) {
		u, err := url.Parse(server)
		if err != nil || u.User == nil {
			continue
		}
		if _, both := u.User.Password(); both { // a lone user is a token, which is a secret
			return u.User.Username()
		}
	}
	return o.User
}

// jwtName returns the name in a user's JWT, or the public key where it has none. It is empty for what is
// no JWT.
func jwtName(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct{ Name, Sub string }
	if json.Unmarshal(raw, &claims) != nil {
		return ""
	}
	if claims.Name == "" {
		return claims.Sub
	}
	return claims.Name
}

// inboxToken makes one token of a subject from a name, another one for each name.
func inboxToken(name string) string {
	var token strings.Builder
	for _, b := range []byte(name) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '_', b == '-':
			token.WriteByte(b)
		default:
			fmt.Fprintf(&token, "=%02X", b)
		}
	}
	return token.String()
}
