package consumer

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// reconnecting adds to a connection what nats.go leaves out when it connects again: a word on why a
// login fails, and the public key of a seed file that was replaced.
type reconnecting struct {
	log      *slog.Logger
	seedFile string                    // empty without NKey
	dialer   nats.CustomDialer         // what connects
	remedy   func(error) string        // nil means that nobody knows any
	conn     atomic.Pointer[nats.Conn] // nil until Connect returns

	mu   sync.Mutex
	told string // the last trouble that was warned of
}

func (r *reconnecting) options() []nats.Option {
	opts := []nats.Option{
		nats.CustomReconnectDelay(func(int) time.Duration { return r.delay() }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { r.tell(err) }),
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
			r.tell(err)
		}
	}
	return reconnectWait + rand.N(reconnectJitter)
}

// tell warns of a trouble that is not the one before; there are up to two attempts a second.
func (r *reconnecting) tell(err error) {
	level := slog.LevelDebug
	r.mu.Lock()
	if text := err.Error(); text != r.told {
		r.told, level = text, slog.LevelWarn
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
