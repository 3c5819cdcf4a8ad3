package limit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var errRefused = errors.New("no answer")

// object is a broker's object that a probe finds as it was set last.
type object struct {
	mu  sync.Mutex
	err error // guarded by mu
}

func (o *object) set(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *object) probe(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// writesWorld has breakers whose intake Writes stops, and probes that ask object.
func writesWorld(t *testing.T, o Object, proves bool) (*Writes, *Breakers, *object) {
	t.Helper()
	w := NewWrites(WritesConfig{})
	b := NewBreakers(BreakerConfig{Writes: w})
	at := &object{}
	for _, each := range Objects {
		w.Wrote(each, nil)
	}
	go w.Run(t.Context(), map[Object]Probe{o: {Proves: proves, Call: at.probe}})
	synctest.Wait()
	return w, b, at
}

// A single failure, and one hiccup that many writes at the same time fail of, stop nothing.
func TestWritesFailTogetherOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := writesWorld(t, ObjectLedger, true)
		for range 64 {
			w.Wrote(ObjectLedger, errRefused)
		}
		checkPermits(t, b, 64)
		<-time.After(time.Minute)
		w.Wrote(ObjectLedger, errRefused)
		checkPermits(t, b, 64)
		if len(w.Failing()) > 0 {
			t.Errorf("failing: %v", w.Failing())
		}
	})
}

// An object that fails some of its writes takes writes.
func TestWritesFailNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, at := writesWorld(t, ObjectLedger, true)
		at.set(ErrUnprobed)
		for range 100 {
			w.Wrote(ObjectLedger, errRefused)
			w.Wrote(ObjectLedger, errRefused)
			w.Wrote(ObjectLedger, nil)
			<-time.After(time.Second)
			checkPermits(t, b, 64)
		}
	})
}

// One write that fails is enough to begin with: the probes find out the rest, and the end of it.
func TestWritesStopAndRecoverByProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		w := NewWrites(WritesConfig{Registerer: reg})
		b := NewBreakers(BreakerConfig{Writes: w})
		at := &object{err: errRefused}
		began := time.Now()
		w.Wrote(ObjectLedger, errRefused)
		go w.Run(t.Context(), map[Object]Probe{ObjectLedger: {Proves: true, Call: at.probe}})
		_, wake := b.Permits(64)
		<-wake
		checkPermits(t, b, 0)
		failing := w.Failing()
		if len(failing) != 1 || failing[0].Object != ObjectLedger || !failing[0].Since.Equal(began) || !errors.Is(failing[0].Err, errRefused) {
			t.Errorf("failing: %v", failing)
		}
		gauge := func(o Object) float64 { return testutil.ToFloat64(w.gauge.WithLabelValues(string(o))) }
		if gauge(ObjectLedger) != 1 || gauge(ObjectResults) != 0 {
			t.Error("the metric says otherwise")
		}
		<-time.After(time.Hour)
		checkPermits(t, b, 0)
		at.set(nil)
		_, wake = b.Permits(64)
		<-wake
		checkPermits(t, b, 64)
		if len(w.Failing()) > 0 || gauge(ObjectLedger) != 0 {
			t.Errorf("failing: %v", w.Failing())
		}
	})
}

// A worker without requests notices, too.
func TestWritesIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _, at := writesWorld(t, ObjectAcks, true)
		at.set(errRefused)
		<-time.After(2 * time.Minute)
		if len(w.Failing()) != 1 {
			t.Error("nobody noticed")
		}
	})
}

// stopped is a world whose results take no writes.
func stopped(t *testing.T) (*Writes, *Breakers, *object) {
	t.Helper()
	w, b, at := writesWorld(t, ObjectResults, false)
	for range 3 {
		w.Wrote(ObjectResults, errRefused)
		<-time.After(3 * time.Second)
	}
	return w, b, at
}

// Where the probe can't write, one request at a time is taken as a trial, and its write decides.
func TestWritesTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, at := stopped(t)
		checkPermits(t, b, 1)
		checkPermits(t, b, 0)
		w.Wrote(ObjectResults, errRefused)
		<-time.After(trialEvery)
		checkPermits(t, b, 1)
		checkPermits(t, b, 0)
		at.set(errRefused)
		w.Wrote(ObjectResults, errRefused)
		<-time.After(time.Hour)
		checkPermits(t, b, 0) // the probe sees that it is no use
		at.set(nil)
		_, wake := b.Permits(64)
		<-wake
		checkPermits(t, b, 1)
		if len(w.Failing()) != 1 {
			t.Error("the trial is not over")
		}
		w.Wrote(ObjectResults, nil)
		checkPermits(t, b, 64)
	})
}

// Where nobody has anything to write, and nothing speaks against it, that is the end of it.
func TestWritesRecoverWithoutRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := stopped(t)
		<-time.After(30 * time.Second)
		if len(w.Failing()) != 1 {
			t.Error("too early: what could not be published rests so long")
		}
		<-time.After(time.Minute)
		checkPermits(t, b, 64)
	})
}

// A failure doesn't count for ever: one now and one an hour ago, with nothing between, are not in a row.
func TestWritesFailSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := writesWorld(t, ObjectDeadLetters, false)
		for range 10 {
			w.Wrote(ObjectDeadLetters, errRefused)
			<-time.After(time.Hour)
		}
		checkPermits(t, b, 64)
	})
}

// What nobody could find out says nothing.
func TestWritesUnprobed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, at := stopped(t)
		w.Wrote(ObjectResults, errRefused)
		at.set(ErrUnprobed)
		<-time.After(time.Hour)
		checkPermits(t, b, 0)
	})
}
