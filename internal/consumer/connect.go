package consumer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// ConnConfig says how to reach NATS. Every file is optional, and every one is read again for each new
// connection to a server, so that it may be replaced under a running worker. A file that can't be used
// by then is told to the log and tried again with the next attempt.
type ConnConfig struct {
	URL   string // one or several, separated by commas
	Name  string // shown by the server's monitoring
	Creds string // file with JWT and seed
	NKey  string // file with a seed
	CA    string // PEM file with the roots to trust
	Cert  string // PEM file with the client's certificate; needs Key
	Key   string // PEM file with its key; needs Cert

	Log *slog.Logger // nil means no log
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
	opts, err := cfg.options()
	if err != nil {
		return nil, fmt.Errorf("consumer: NATS connection: %w", err)
	}
	r := &reconnecting{log: cfg.Log, seedFile: cfg.NKey}
	opts = append(append(opts, r.options()...), OwnInbox())
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("consumer: NATS connection: %w", err)
	}
	r.conn.Store(nc)
	return nc, nil
}

func (c ConnConfig) options() ([]nats.Option, error) {
	auth, err := c.credentials()
	if err != nil {
		return nil, err
	}
	opts := append(auth, nats.Name(c.Name),
		nats.Timeout(connectTimeout), nats.PingInterval(pingInterval), nats.DrainTimeout(drainTimeout),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(reconnectForever),
		nats.IgnoreAuthErrorAbort()) // credentials rotate; the next try reads the files again
	return append(opts, c.handlers()...), nil
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
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey %s: %w", c.NKey, err)
		}
		opts = append(opts, nkey)
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
