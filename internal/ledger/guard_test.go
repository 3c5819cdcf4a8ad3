package ledger_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// process is what one worker has of the ledger.
type process struct {
	*ledger.Ledger
	t     *testing.T
	js    jetstream.JetStream
	guard *ledger.Guard
}

// newProcess opens the ledger on js as a worker does that has just started, but checks nothing yet.
func newProcess(t *testing.T, js jetstream.JetStream) *process {
	t.Helper()
	g := &ledger.Guard{}
	return &process{open(t, js, ledger.Config{Manage: true, Guard: g}), t, js, g}
}

// check makes a check that must go well and returns when records were lost.
func (p *process) check() time.Time {
	p.t.Helper()
	if err := p.guard.Check(testContext(p.t), p.Ledger); err != nil {
		p.t.Fatal(err)
	}
	return p.guard.LostAt()
}

func (p *process) mustHaveLostNothing(when string) {
	p.t.Helper()
	if at := p.check(); !at.IsZero() {
		p.t.Errorf("%s: records were lost at %v, want none", when, at)
	}
}

// mustHaveLost checks that what was written up to since counts as lost, and that a later look and a
// process that starts later say the same.
func (p *process) mustHaveLost(when string, since time.Time) time.Time {
	p.t.Helper()
	at := p.check()
	if at.Before(since) {
		p.t.Errorf("%s: records were lost at %v, want %v or later", when, at, since)
	}
	rev := p.note().Revision()
	if again := p.check(); !again.Equal(at) || p.note().Revision() != rev {
		p.t.Errorf("%s: a second look says %v at revision %d, the first said %v at %d", when, again, p.note().Revision(), at, rev)
	}
	if other := newProcess(p.t, p.js).check(); !other.Equal(at) {
		p.t.Errorf("%s: a process that starts later says %v, want %v", when, other, at)
	}
	return at
}

func (p *process) note() jetstream.KeyValueEntry {
	p.t.Helper()
	entry, err := p.bucket().Get(p.t.Context(), ledger.NoteKey)
	if err != nil {
		p.t.Fatal(err)
	}
	return entry
}

func (p *process) bucket() jetstream.KeyValue {
	p.t.Helper()
	kv, err := p.js.KeyValue(p.t.Context(), ledger.DefaultBucket)
	if err != nil {
		p.t.Fatal(err)
	}
	return kv
}

func (p *process) stream() jetstream.Stream {
	p.t.Helper()
	s, err := p.js.Stream(p.t.Context(), "KV_"+ledger.DefaultBucket)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *process) purge(opts ...jetstream.StreamPurgeOpt) {
	p.t.Helper()
	if err := p.stream().Purge(p.t.Context(), opts...); err != nil {
		p.t.Fatal(err)
	}
}

// written stores a record and returns when, by the server's clock.
func (p *process) written(id string) time.Time {
	p.t.Helper()
	rec := record(id, "n")
	store(p.t, p.Ledger, rec, 0)
	entry, err := p.bucket().Get(p.t.Context(), rec.Key.String())
	if err != nil {
		p.t.Fatal(err)
	}
	return entry.Created()
}

func TestNewBucketHasLostNothing(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.mustHaveLostNothing("a new bucket")
	p.written("x")
	rev := p.note().Revision()
	p.mustHaveLostNothing("with a record")
	newProcess(t, p.js).mustHaveLostNothing("another process")
	if got := p.note().Revision(); got != rev {
		t.Errorf("the note was written again: revision %d, was %d", got, rev)
	}
	if got := listed(t, p.Ledger, ledger.Filter{}); len(got) != 1 {
		t.Errorf("the list shows the note: %q", got)
	}
	if _, err := provision.ParseKey(ledger.NoteKey); err == nil {
		t.Error("the note's key is one that a request may have")
	}
}

// A purge under running processes: the one that looks first notes it, the others read the note or miss
// their own last write.
func TestPurgeWhileRunning(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	q := newProcess(t, p.js)
	p.mustHaveLostNothing("before")
	q.mustHaveLostNothing("before")
	last := p.written("x")
	p.purge()
	first := p.mustHaveLost("purged", last)
	if at := q.check(); !at.Equal(first) {
		t.Errorf("the other process says %v, want %v", at, first)
	}
	last = p.written("y")
	if at := p.check(); !at.Equal(first) {
		t.Errorf("nothing more was lost, but it says %v, said %v", at, first)
	}
	p.purge()
	p.mustHaveLost("purged again", last)
}

func TestPurgeWhileNothingRuns(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.mustHaveLostNothing("before")
	last := p.written("x")
	p.purge()
	purged := time.Now()
	if at := newProcess(t, p.js).mustHaveLost("started after a purge", last); at.After(purged) {
		t.Errorf("records were lost at %v, but the purge was over at %v", at, purged)
	}
}

// A purge, and then workers of a version that keeps no note: what they wrote is younger than the purge.
func TestPurgeBeforeOlderWorkers(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.mustHaveLostNothing("before")
	last := p.written("x")
	p.purge()
	next := p.written("y")
	p.written("z")
	if at := newProcess(t, p.js).mustHaveLost("note and records gone", last); !at.Equal(next) {
		t.Errorf("records were lost at %v, want %v, when the oldest was written that is left", at, next)
	}
}

// A bucket of an older version: it may have been purged, but not after its oldest record was written.
func TestBucketOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	oldest := p.written("x")
	p.written("y")
	if at := p.mustHaveLost("no note", oldest); !at.Equal(oldest) {
		t.Errorf("records were lost at %v, want %v", at, oldest)
	}
}

func TestEmptyBucketOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	late := time.Now().Add(time.Hour)
	p.guard.SetClock(func() time.Time { return late })
	p.mustHaveLost("an hour old and empty: its records may have gone with the power", late)
}

// Records and note that are over their age are no loss: it is as if they were lost when they were
// written, which is too long ago to matter.
func TestAgeIsNoLoss(t *testing.T) {
	t.Parallel()
	g, js := &ledger.Guard{}, newServer(t)
	p := &process{open(t, js, ledger.Config{Manage: true, TTL: time.Second, Guard: g}), t, js, g}
	p.mustHaveLostNothing("before")
	last := p.written("x")
	for ctx := testContext(t); p.stream().CachedInfo().State.Msgs > 0; {
		if ctx.Err() != nil {
			t.Fatal("nothing expires")
		}
	}
	g = &ledger.Guard{}
	if err := g.Check(t.Context(), p.Ledger); err != nil || !g.LostAt().Equal(last) {
		t.Errorf("records were lost at %v, %v; want %v, when the last was written", g.LostAt(), err, last)
	}
}

func TestNoteIsWrittenAnewEveryDay(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	now := time.Now()
	p.guard.SetClock(func() time.Time { return now })
	p.mustHaveLostNothing("a new bucket")
	p.written("x")
	rev := p.note().Revision()
	for day, want := range []bool{false, true, true} {
		now = time.Now().Add(time.Duration(day)*25*time.Hour + 30*time.Minute)
		p.mustHaveLostNothing("later")
		if got := p.note().Revision(); (got > rev) != want {
			t.Errorf("day %d: revision %d after %d; want it written anew: %v", day, got, rev, want)
		}
		rev = p.note().Revision()
	}
}

// The note itself can be deleted, or be overwritten by hand.
func TestNoteIsTamperedWith(t *testing.T) {
	t.Parallel()
	for name, tamper := range map[string]func(context.Context, jetstream.KeyValue) error{
		"deleted": func(ctx context.Context, kv jetstream.KeyValue) error { return kv.Delete(ctx, ledger.NoteKey) },
		"purged":  func(ctx context.Context, kv jetstream.KeyValue) error { return kv.Purge(ctx, ledger.NoteKey) },
		"odd": func(ctx context.Context, kv jetstream.KeyValue) error {
			_, err := kv.PutString(ctx, ledger.NoteKey, "yes")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, newServer(t))
			p.written("old")
			p.check()
			allowRollUps(t, p.js)
			now := time.Now()
			if err := tamper(t.Context(), p.bucket()); err != nil {
				t.Fatal(err)
			}
			newProcess(t, p.js).mustHaveLost(name, now)
			p.mustHaveLost(name, now)
		})
	}
}

// TestLastWritesAreLost puts the server's files back to what they were before the last write.
func TestLastWritesAreLost(t *testing.T) {
	t.Parallel()
	ctx, dir := testContext(t), filepath.Join(t.TempDir(), "js")
	server := natstest.Run(t, natstest.Options{StoreDir: dir})
	p := newProcess(t, natstest.Connect(t, server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond)))
	p.mustHaveLostNothing("before")
	p.written("kept")
	server.Stop()
	saved := dir + "-saved"
	if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	restart(ctx, t, server, p.js)
	p.mustHaveLostNothing("after a restart")
	last := p.written("lost")
	server.Stop()
	if err := errors.Join(os.RemoveAll(dir), os.Rename(saved, dir)); err != nil {
		t.Fatal(err)
	}
	restart(ctx, t, server, p.js)
	p.written("since") // at the revision of the one that was lost
	p.mustHaveLost("without the last write", last)
}

// restart starts the server again and waits until js was connected again.
func restart(ctx context.Context, t *testing.T, server *natstest.Server, js jetstream.JetStream) {
	t.Helper()
	before := js.Conn().Stats().Reconnects
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for js.Conn().Stats().Reconnects == before || !js.Conn().IsConnected() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not connected again")
		}
	}
}

// After a purge and a restart nobody knows when the last write was, or everybody does.
func TestPurgeAndRestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := natstest.Run(t, natstest.Options{})
	p := newProcess(t, natstest.Connect(t, server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond)))
	p.mustHaveLostNothing("before")
	last := p.written("x")
	p.purge()
	server.Stop()
	restart(ctx, t, server, p.js)
	newProcess(t, p.js).mustHaveLost("after purge and restart", last)
}

// What is known of the last write of this process.
func TestWitness(t *testing.T) {
	t.Parallel()
	key := record("x", "").Key
	for name, c := range map[string]struct {
		do   func(*process)
		lost bool
	}{
		"written by another process since": {func(p *process) {
			rec, rev, err := p.Load(p.t.Context(), key)
			if err != nil {
				p.t.Fatal(err)
			}
			rec.Nonce = "another"
			store(p.t, open(p.t, p.js, ledger.Config{}), rec, rev)
		}, false},
		"deleted by its key": {func(p *process) {
			if err := p.bucket().Delete(p.t.Context(), key.String()); err != nil {
				p.t.Fatal(err)
			}
		}, false},
		"its tenant was purged": {func(p *process) {
			p.purge(jetstream.WithPurgeSubject("$KV." + ledger.DefaultBucket + ".acme.>"))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, newServer(t))
			p.mustHaveLostNothing("before")
			last := p.written("x")
			c.do(p)
			if c.lost {
				p.mustHaveLost(name, last)
			} else {
				p.mustHaveLostNothing(name)
			}
		})
	}
}

// A bucket that was deleted and made anew has lost what the old one had.
func TestBucketMadeAnew(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.mustHaveLostNothing("before")
	last := p.written("x")
	if err := p.js.DeleteKeyValue(t.Context(), ledger.DefaultBucket); err != nil {
		t.Fatal(err)
	}
	if err := p.guard.Check(testContext(t), p.Ledger); err == nil || errors.Is(err, ledger.ErrNotNoted) || !strings.Contains(err.Error(), "worker init") {
		t.Errorf("without a bucket: %v, want an error with the remedy", err)
	}
	newProcess(t, p.js).mustHaveLostNothing("who knows no earlier bucket")
	p.mustHaveLost("who knows the earlier one", last)
}

// The first write in a bucket that was made anew says so, before any look: its revision isn't higher than those of
// the old bucket.
func TestWriteShowsABucketMadeAnew(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	p, idle := newProcess(t, js), newProcess(t, js)
	p.written("x")
	last := p.written("y")
	if err := idle.Refresh(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), ledger.DefaultBucket); err != nil {
		t.Fatal(err)
	}
	newProcess(t, js)
	for name, q := range map[string]*process{"wrote in the old one": p, "saw the old one": idle} {
		q.written("z" + name[:1])
		if at := q.guard.LostAt(); at.Before(last) {
			t.Errorf("who %s: records were lost at %v, want %v or later", name, at, last)
		}
	}
	p.mustHaveLost("a look after it", last)
}

// A process that wrote nothing itself knows which note it has seen: one at an earlier revision is another.
func TestNoteAtAnEarlierRevision(t *testing.T) {
	t.Parallel()
	p, idle := newProcess(t, newServer(t)), &ledger.Guard{}
	p.mustHaveLostNothing("before")
	last := p.written("x")
	tomorrow := time.Now().Add(25 * time.Hour)
	p.guard.SetClock(func() time.Time { return tomorrow })
	p.mustHaveLostNothing("written anew")
	if err := idle.Check(testContext(t), p.Ledger); err != nil || !idle.LostAt().IsZero() {
		t.Fatalf("records were lost at %v, %v", idle.LostAt(), err)
	}
	if err := p.js.DeleteKeyValue(t.Context(), ledger.DefaultBucket); err != nil {
		t.Fatal(err)
	}
	newProcess(t, p.js).mustHaveLostNothing("who knows no earlier bucket")
	if err := idle.Check(testContext(t), p.Ledger); err != nil || idle.LostAt().Before(last) {
		t.Errorf("records were lost at %v, %v; want %v or later", idle.LostAt(), err, last)
	}
}

// Many processes find the note gone at once; all of them come to say the same.
func TestManyNoticeAtOnce(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	var all []*process
	for range 8 {
		all = append(all, newProcess(t, js))
		all[len(all)-1].mustHaveLostNothing("before")
	}
	last := all[0].written("x")
	all[0].purge()
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			if err := p.guard.Check(testContext(t), p.Ledger); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	at := all[0].mustHaveLost("purged", last)
	for _, p := range all {
		if got := p.check(); !got.Equal(at) {
			t.Errorf("%v and %v", got, at)
		}
	}
}

// A process that may not write the note says so, and knows all the same what was lost.
func TestNoteCannotBeWritten(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte(`authorization { users: [
		{ user: all, password: p }
		{ user: few, password: p, permissions { publish: { deny: ["$KV.connection-ledger._flow-worker.>"] } } }
	] }`), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natstest.Run(t, natstest.Options{ConfigFile: conf}).ClientURL()
	p := newProcess(t, natstest.Connect(t, url, natstest.As("all", "p")))
	few := newProcess(t, natstest.Connect(t, url, natstest.As("few", "p")))
	check := func(when string) time.Time {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := few.guard.Check(ctx, few.Ledger); !errors.Is(err, ledger.ErrNotNoted) || !strings.Contains(err.Error(), "right to publish") {
			t.Errorf("%s: %v, want ErrNotNoted", when, err)
		}
		return few.guard.LostAt()
	}
	if at := check("a new bucket"); !at.IsZero() {
		t.Errorf("a new bucket has lost records at %v", at)
	}
	p.mustHaveLostNothing("a new bucket")
	few.mustHaveLostNothing("another wrote the note")
	last := few.written("x")
	p.purge()
	if at := check("purged"); at.Before(last) {
		t.Errorf("records were lost at %v, want %v or later", at, last)
	}
}

// A proof writes the note, changes nothing that it says, and fails where the bucket takes no writes.
func TestProve(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	prove := func(g *ledger.Guard) error { return g.Prove(testContext(t), p.Ledger) }
	if err := prove(p.guard); err != nil { // where there is no note yet
		t.Fatal(err)
	}
	p.written("x")
	p.purge()
	lost := p.check()
	before := p.note()
	if err := errors.Join(prove(p.guard), prove(&ledger.Guard{})); err != nil {
		t.Fatal(err)
	}
	if after := p.note(); after.Revision() != before.Revision()+2 || string(after.Value()) != string(before.Value()) {
		t.Errorf("the note was %s at revision %d and is %s at %d", before.Value(), before.Revision(), after.Value(), after.Revision())
	}
	if at := p.check(); lost.IsZero() || !at.Equal(lost) {
		t.Errorf("records were lost at %v, want %v", at, lost)
	}
	cfg := p.stream().CachedInfo().Config
	cfg.Subjects = []string{"elsewhere"}
	if _, err := p.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := prove(p.guard); err == nil {
		t.Error("the bucket takes no writes, and nobody noticed")
	}
}

// Processes that prove at the same time are not in each other's way.
func TestProveTogether(t *testing.T) {
	t.Parallel()
	p := newProcess(t, newServer(t))
	p.mustHaveLostNothing("a new bucket")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if err := new(ledger.Guard).Prove(testContext(t), p.Ledger); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p.mustHaveLostNothing("after all proofs")
}
