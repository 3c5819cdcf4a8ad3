package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/inquiry"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/ops"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// Object is one NATS object and what was done to it.
type Object struct {
	Name    string   `json:"name"`
	Created bool     `json:"created"`           // it was not there before
	Changed []string `json:"changed,omitempty"` // settings that were raised, as "replicas 1 → 3"
	Kept    []string `json:"kept,omitempty"`    // settings that go beyond what was asked for
}

// Objects is what EnsureObjects returns.
type Objects struct {
	Ledger *ledger.Ledger
	Report []Object // in the order in which it was done; as far as it got, if there was an error
}

// EnsureObjects creates or upgrades the ledger, the streams and the consumer, or only checks them
// where the settings say so. The ledger comes first, so that no request can be older than it.
func EnsureObjects(ctx context.Context, js jetstream.JetStream, s settings.Settings) (Objects, error) {
	var objects Objects
	ensureLedger := func(ctx context.Context) error {
		opened, err := openLedger(ctx, js, s, nil)
		if err != nil {
			return err
		}
		did := opened.Setup()
		objects.Ledger = opened
		objects.Report = append(objects.Report, Object{ledger.DefaultBucket, did.Created, did.Changed, did.Kept})
		if !s.ManageStreams {
			return nil
		}
		err = new(ledger.Guard).Check(ctx, opened) // the first note is best written while the bucket is new
		if errors.Is(err, ledger.ErrNotNoted) {
			return nil // the workers will do it
		}
		return err
	}
	report, err := consumer.EnsureObjects(ctx, js, objectsConfig(s, ensureLedger))
	for _, c := range report {
		objects.Report = append(objects.Report, Object{c.Name, c.Created, c.Changed, c.Kept})
	}
	if err != nil {
		return objects, fmt.Errorf("the NATS objects: %w", err)
	}
	return objects, nil
}

func objectsConfig(s settings.Settings, ensureLedger func(context.Context) error) consumer.ObjectsConfig {
	return consumer.ObjectsConfig{Manage: s.ManageStreams, Replicas: s.Replicas, AckWait: s.AckWait, MaxBytes: s.StreamMaxBytes, Ledger: ensureLedger}
}

// openLedger opens the ledger. The guard, if there is one, sees what is written.
func openLedger(ctx context.Context, js jetstream.JetStream, s settings.Settings, g *ledger.Guard) (*ledger.Ledger, error) {
	return ledger.Open(ctx, js, ledger.Config{Replicas: s.Replicas, Manage: s.ManageStreams, MaxBytes: s.StreamMaxBytes, Guard: g})
}

// renew opens the ledger, or makes it, as the settings say, and makes sure of a hub that works on it: a hub must
// know when its ledger came to be, so one whose ledger was deleted and made again under it is replaced. The
// consumer calls it before it takes requests, and again after every trouble.
func (w *worker) renew(ctx context.Context) error {
	opened, err := openLedger(ctx, w.js, w.settings, &w.guard.Guard)
	if err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	w.ledger.Store(opened)
	age := ledgerAge{created: opened.Created()}
	if stream, err := w.js.Stream(ctx, consumer.StreamRequests); err == nil {
		age.stream = stream.CachedInfo().Created
	} else if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("the age of the stream: %w", err)
	}
	if err := w.guard.check(ctx); err != nil {
		return err
	}
	if err := w.proveLedger(ctx); err != nil {
		return err
	}
	w.renewing.Lock()
	defer w.renewing.Unlock()
	if w.hub.Load() != nil && w.hubLedger.Equal(age.created) {
		return nil
	}
	watched := w.watch
	watched.ledger, watched.failed = opened, w.consumer.Recheck
	if w.tracer != nil {
		watched.ledger = w.tracer.Ledger(opened)
	}
	cfg, replaced := w.hubConfig, age.lookFirstUntil()
	cfg.Ledger, cfg.LedgerCreated = &watched, age.created
	cfg.LookFirstUntil = func() time.Time {
		if until := w.guard.lookFirstUntil(); until.After(replaced) {
			return until
		}
		return replaced
	}
	hub, err := provision.New(cfg)
	if err != nil {
		return err
	}
	w.hub.Store(hub)
	w.hubLedger = age.created
	return nil
}

// ledgerAge says since when there is a ledger, and a stream of requests.
type ledgerAge struct{ created, stream time.Time }

// together is how far apart ledger and stream may have been made by one set-up.
const together = time.Hour

// lookFirstUntil returns until when a request that is new to the ledger may be a repeat of one that an
// earlier ledger knew: a ledger that is much younger than the stream took the place of another.
func (a ledgerAge) lookFirstUntil() time.Time {
	if a.stream.IsZero() || a.created.Sub(a.stream) < together {
		return time.Time{}
	}
	return a.created.Add(ledger.DefaultTTL)
}

// errNoLedger means that the ledger has not been opened yet.
var errNoLedger = errors.New("the ledger is not open yet")

// records reads the ledger that is open, for those who know no NATS: the consumer's sweep, the status page and
// the answers to tenants. What can't be decoded was written by a newer worker, whose business it is.
type records struct{ *worker }

var _ ops.Ledger = records{}

// list yields the records that f chooses.
func (r records) list(ctx context.Context, f ledger.Filter) iter.Seq2[consumer.Written, error] {
	return func(yield func(consumer.Written, error) bool) {
		opened := r.ledger.Load()
		if opened == nil {
			yield(consumer.Written{}, errNoLedger)
			return
		}
		for e, err := range opened.List(ctx, f) {
			if errors.Is(err, ledger.ErrUndecodable) {
				continue
			}
			if !yield(consumer.Written{Record: e.Record, Revision: e.Revision}, err) {
				return
			}
		}
	}
}

// from yields the records that were written at a revision or later.
func (r records) from(ctx context.Context, revision uint64) iter.Seq2[consumer.Written, error] {
	return r.list(ctx, ledger.Filter{From: revision})
}

// find yields the records of the requests with these names; an empty one means any.
func (r records) find(ctx context.Context, tenant, source, id string) iter.Seq2[provision.Record, error] {
	return func(yield func(provision.Record, error) bool) {
		for w, err := range r.list(ctx, ledger.Filter{Tenant: tenant, Source: source, ID: id}) {
			if !yield(w.Record, err) {
				return
			}
		}
	}
}

func (r records) load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	opened := r.ledger.Load()
	if opened == nil {
		return provision.Record{}, 0, errNoLedger
	}
	return opened.Load(ctx, key)
}

// Newest implements ops.Ledger.
func (r records) Newest(ctx context.Context) (uint64, error) {
	stream, err := r.js.Stream(ctx, "KV_"+ledger.DefaultBucket)
	if err != nil {
		return 0, fmt.Errorf("the ledger's bucket: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Since implements ops.Ledger.
func (r records) Since(ctx context.Context, revision uint64) iter.Seq2[ops.Written, error] {
	return func(yield func(ops.Written, error) bool) {
		for w, err := range r.from(ctx, revision) {
			if !yield(ops.Written(w), err) {
				return
			}
		}
	}
}

// ByID implements ops.Ledger.
func (r records) ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error] {
	return r.find(ctx, "", "", id)
}

// Record implements ops.Ledger. A record that has more in it than this version knows is shown without.
func (r records) Record(ctx context.Context, key provision.Key) (provision.Record, error) {
	rec, _, err := r.load(ctx, key)
	if !errors.Is(err, ledger.ErrUndecodable) {
		return rec, err
	}
	for rec, err := range r.find(ctx, key.Tenant, key.Source, key.ID) {
		return rec, err
	}
	return rec, err
}

// answerTenants answers tenants' questions until ctx ends. They have a connection of their own, for tenants
// can send more than it takes, and have the server cut it off: whatever becomes of it is
// logged, and nothing to the work.
func (w *worker) answerTenants(ctx context.Context) {
	log := w.log.With("part", "inquiry")
	nc, err := w.dial(w.instance+" questions", log)
	if err == nil {
		defer closeNATS(nc)
		inquiry.Quiet(nc, log)
		err = inquiry.Run(ctx, inquiry.Config{Conn: nc, Log: log, Find: records{w}.find})
	}
	if err != nil {
		log.Error("tenants' questions are not answered", "error", err)
	}
}

// How the ledger is looked at for records that were lost.
const (
	guardEvery  = 5 * time.Second // roughly; also how long one look may take
	logAgain    = time.Hour       // a loss that is found to be this much later is logged again
	lostRemedy  = "nothing is to be done, but find out why: for 30 days from then on every new request is looked up before its first POST, lest a repeat makes a second connection"
	noteTrouble = "what was lost of the ledger can't be noted there; every worker has to find out by itself"
)

// ledgerGuard looks again and again whether the ledger has lost records, and logs it.
type ledgerGuard struct {
	ledger.Guard
	ledger     *atomic.Pointer[ledger.Ledger] // the one that is open, nil before
	reconnects func() uint64                  // how often the connection was made again
	every      time.Duration                  // between looks
	log        *slog.Logger

	checked atomic.Uint64 // what reconnects said when the last look began that went well
	flight  singleflight.Group

	logMu   sync.Mutex
	logged  time.Time // of losses, the last that the log has; guarded by logMu
	trouble time.Time // when it was last logged that nothing can be noted; guarded by logMu
}

// check looks once. What it found can't be noted is no error.
func (g *ledgerGuard) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, guardEvery)
	defer cancel()
	reconnects := g.reconnects()
	opened := g.ledger.Load()
	if opened == nil {
		return errNoLedger
	}
	err := g.Check(ctx, opened)
	g.report(err)
	if errors.Is(err, ledger.ErrNotNoted) {
		err = nil
	}
	if err == nil {
		g.checked.Store(reconnects)
	}
	return err
}

// checkOnceConnected looks if nobody has since the connection was made again. Callers at the same time
// share one look.
func (g *ledgerGuard) checkOnceConnected(ctx context.Context) error {
	for g.checked.Load() != g.reconnects() {
		if _, err, _ := g.flight.Do("", func() (any, error) { return nil, g.check(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// run looks until ctx ends, and reports looks that fail to failed.
func (g *ledgerGuard) run(ctx context.Context, failed func(error)) {
	timer := time.NewTimer(g.every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if err := g.check(ctx); err != nil && ctx.Err() == nil {
			g.log.Debug("the ledger can't be looked at", "error", err)
			failed(err)
		}
		timer.Reset(time.Duration((0.75 + rand.Float64()/2) * float64(g.every)))
	}
}

// lookFirstUntil returns until when a request that is new to the ledger may be a repeat of one whose
// record was lost.
func (g *ledgerGuard) lookFirstUntil() time.Time {
	at := g.LostAt()
	if at.IsZero() {
		return at
	}
	return at.Add(ledger.DefaultTTL)
}

// report logs a loss that still matters, and that it can't be noted.
func (g *ledgerGuard) report(err error) {
	g.logMu.Lock()
	defer g.logMu.Unlock()
	now, at, until := time.Now(), g.LostAt(), g.lookFirstUntil()
	if at.Sub(g.logged) > logAgain && now.Before(until) {
		g.logged = at
		g.log.Warn("the ledger may have lost records", "written_before", at, "look_first_until", until, "remedy", lostRemedy)
	}
	if errors.Is(err, ledger.ErrNotNoted) && now.Sub(g.trouble) > logAgain {
		g.trouble = now
		g.log.Warn(noteTrouble, "error", err)
	}
}
