// Package flowtest emulates Adobe's Flow Service and its IMS token endpoint, for tests and for
// trying things out without an Adobe organization. It keeps connections in memory, answers with the
// shapes that the public documentation shows, and misbehaves on request: see Fault.
//
// An Emulator is an http.Handler. Flow Service is served below /data/foundation/flowservice and,
// for short, at the root; IMS at /ims/token/v3; what only an emulator has at /_emulator/ (connections,
// requests, faults, reset). The latter asks for no credentials: bind it to a loopback address.
//
// # Documented by Adobe, and reproduced
//
//   - The required headers and the gateway's error codes for them; the {error_code, message} shape,
//     its code as a string (a fault can make it a number: both are documented).
//   - POST /connections: 201 with Location and only {id, etag}; no idempotency key, no client-chosen
//     id, no error for a name that is taken. A repeated POST makes a second connection.
//   - GET /connections/{id} wraps its connection in items; a 404 has the FLOW-1439 body.
//   - Lists: property filters (several mean AND, a comma means OR, quotes are optional), orderby,
//     limit, count, a relative next link with a continuation token, newest first; the error codes
//     for wrong fields, operators, parameters and values.
//   - PATCH wants If-Match with the etag's inner quotes: missing 1403-400, anything but the current
//     one 1404-412. "replace" on /auth/params replaces all params.
//   - DELETE: 204, then 404. GET test: {result}. GET explore: root and table. Drafts and publishing.
//   - IMS: client credentials, comma-separated scopes, expires_in in seconds.
//
// # Inferred, and so only plausible
//
//   - The bodies of most errors of POST /connections: their codes and texts are in the catalogue, the
//     pairing is a guess. So is FLOW- (not CONNECTOR-) before 1304 and 1308, the text of a stopped
//     cluster, and every status and body of an IMS refusal.
//   - The order in which headers are checked, and that limits above 100 are lowered, not refused.
//   - A comma always separates values, even inside quotes; equality minds case; text is ordered by
//     bytes. These are the strictest readings: a client that bears them bears the others.
//   - PATCH accepts only /name, /description and /auth/params as a whole, as the tutorials do.
//   - Secret params are answered as "xxxx", and a filter sees them as that too.
//   - domain, clusterId, accessToken and database are mandatory, catalog is not, other params are kept.
//
// # Not known, so choose with faults and Config
//
//   - Whether and how the service limits rates (EffectRateLimit), how long its lists lag
//     (Config.ListLag, EffectListLag), how long a connection stays "initializing"
//     (EffectInitializing; without it a connection is enabled at once), its time limits.
//   - What a create with bad credentials or a stopped cluster answers, and how long it takes. No
//     Databricks is contacted here: a connection works unless a fault says otherwise.
//   - The state of a draft ("draft" here), and whether a draft skips the credential check.
//   - Whether it stores ids, names and descriptions as they were sent (EffectStore, EffectTruncate), what
//     its lists leave out (EffectOmit), whether they are in the order that was asked for
//     (EffectUnordered) and take every filter (EffectRefuseQuery, EffectFoldNames), which states there
//     are (EffectState), and whether names are unique after all (EffectUniqueNames). The habits are
//     independent of each other; see Fault.
//   - Whether "+" in a query means a blank: both are accepted, Config.LiteralPlus refuses to.
//
// # Not emulated
//
// Source and target connections, flows, runs, flow specs, configs and POST /connections/search:
// these answer 404 or 405. Access control, entitlements and quotas exist only as faults.
package flowtest

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config sets up an Emulator. The zero value works.
type Config struct {
	// Clock is the time of timestamps, token expiry, list lag and rate limits. Nil means time.Now.
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
	// ExpiresIn is the life of an IMS token, answered in whole seconds. 0 means 86399 s, below 0 that
	// tokens are stale from the start.
	ExpiresIn time.Duration
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
	defaultPageSize  = 20 // of a list, when the request names no limit
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

// dice is a seeded source of randomness that several goroutines may share.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

// newDice returns a source of its own for every pair of seed and stream.
func newDice(seed int64, stream uint64) *dice {
	return &dice{rng: rand.New(rand.NewPCG(uint64(seed), stream))} //nolint:gosec // repeatable, not secret
}

// chance returns true with probability p.
func (d *dice) chance(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64() < p
}

func (d *dice) bytes() (b [16]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range b {
		b[i] = byte(d.rng.Uint32())
	}
	return b
}

// uuid returns a version 4 UUID.
func (d *dice) uuid() string { return formatUUID(d.bytes()) }

func (d *dice) hex() string {
	b := d.bytes()
	return hex.EncodeToString(b[:])
}

func formatUUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
