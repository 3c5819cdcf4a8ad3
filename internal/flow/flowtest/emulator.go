package flowtest

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config sets up an Emulator. The zero value works.
type Config struct {
	// Clock tells the time for timestamps, token expiry, list lag and rate limits. Nil means time.Now.
	Clock func() time.Time
	// Sleep waits for d or until ctx ends, for latencies and hangs. Nil means real time.
	Sleep func(ctx context.Context, d time.Duration) error
	// Log gets one debug line per request, without secrets. Nil means none.
	Log *slog.Logger
	// Latency is added to every answer of Flow Service and IMS.
	Latency time.Duration
	// ListLag is how long a new connection is missing from lists. GET by id finds it at once.
	ListLag time.Duration
	// Seed makes ids, tokens and the dice of Fault.Probability repeatable. 0 picks one at random; see
	// Emulator.Seed.
	Seed int64
	// AllowAnyToken accepts bearer tokens that the emulator does not know, for any org and API key.
	AllowAnyToken bool
	// ExpiresIn is the life of an IMS token, told in whole seconds. 0 means 86399 s, below 0 that
	// tokens are stale from the start.
	ExpiresIn time.Duration
	// PageSize is the length of a list's page when the request names no limit. 0 means 20; more than
	// 100 means 100.
	PageSize int
	// Sandboxes are the sandboxes of every organization. Empty means that any name will do.
	Sandboxes []string
	// Specs are connection specs besides Databricks, which is always there.
	Specs []Spec
	// LiteralPlus takes "+" in a query for itself, not for a blank: a client that does not send
	// blanks as %20 finds nothing then.
	LiteralPlus bool
}

// Limits of the emulator.
const (
	// MaxBody is the largest request body in bytes; a larger one gets 413.
	MaxBody = 256 << 10
	// MaxKept is how many requests are kept for Emulator.Requests, the latest ones.
	MaxKept = 10_000

	defaultExpiresIn = 86399 * time.Second
	defaultPageSize  = 20
	maxPageSize      = 100
)

// Emulator stands in for Flow Service and IMS. All methods are safe for concurrent use, and none
// waits for a request that a fault delays.
type Emulator struct {
	cfg     Config
	seed    int64
	specs   []Spec
	routes  map[string]map[string]route // :: path pattern → method → route
	store   *store
	idents  *identities
	faults  *faultSet
	log     *recorder
	secrets map[string]bool // :: names of JSON fields that hold secrets
	hanging atomic.Int64

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil while nobody waits
}

var _ http.Handler = (*Emulator)(nil)

// New returns an empty emulator.
func New(cfg Config) *Emulator {
	cfg.setDefaults()
	seed := cfg.Seed
	for seed == 0 {
		var b [8]byte
		_, _ = crand.Read(b[:])
		seed = int64(binary.LittleEndian.Uint64(b[:]))
	}
	e := &Emulator{cfg: cfg, seed: seed, specs: append([]Spec{Databricks()}, cfg.Specs...)}
	e.secrets = secretNames(e.specs)
	e.routes = routes()
	e.store = newStore(newDice(seed, 1))
	e.faults = newFaultSet(newDice(seed, 2))
	e.idents = newIdentities(newDice(seed, 3))
	e.log = newRecorder()
	return e
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ExpiresIn == 0 {
		c.ExpiresIn = defaultExpiresIn
	}
	if c.PageSize <= 0 {
		c.PageSize = defaultPageSize
	}
	c.PageSize = min(c.PageSize, maxPageSize)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Seed returns the seed in use, to be given to Config.Seed when a run is to be repeated.
func (e *Emulator) Seed() int64 { return e.seed }

// Wait returns nil as soon as cond holds, or an error when ctx ends before. It looks at cond whenever
// a request arrives, hangs or is answered, and whenever connections, faults or tokens change; the
// passing of time alone does not wake it. cond may call the emulator's methods other than Wait.
func (e *Emulator) Wait(ctx context.Context, cond func(*Emulator) bool) error {
	for {
		next := e.nextChange()
		if cond(e) {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("flowtest: what was waited for did not happen: %w", context.Cause(ctx))
		}
	}
}

func (e *Emulator) nextChange() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.changed
}

func (e *Emulator) announce() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// Count returns how many calls of op arrived since New or Reset, however they ended. OpAny counts
// all of them.
func (e *Emulator) Count(op Operation) int { return e.log.count(op) }

// Requests returns the latest calls, at most MaxKept, oldest first, without their secrets.
func (e *Emulator) Requests() []Request { return e.log.list() }

// Hanging returns how many requests an EffectHang holds right now.
func (e *Emulator) Hanging() int { return int(e.hanging.Load()) }

// Reset forgets connections, requests, counts and faults. Clients and tokens stay, and so do requests
// under way: what a fault holds back may still make a connection afterwards.
func (e *Emulator) Reset() {
	e.store.clear()
	e.faults.set(nil)
	e.log.clear()
	e.announce()
}
