//go:build soak

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// Three brokers, of which the leader of one stream after the other is killed.
func TestClusterLosesItsLeader(t *testing.T) {
	t.Parallel()
	seed, d := newSeed(t), *durationFlag
	ctx, cancel := context.WithTimeout(t.Context(), d+*patienceFlag+2*time.Minute)
	defer cancel()
	w := newWorld(ctx, t, seed, 3, quick...)
	w.setFaults(lossy()...)
	w.startWorkers(ctx, 2)
	asks := newAsks(newRand(seed, 1), share(300), mixed)
	var chaos sync.WaitGroup
	killed := map[string]int{}
	chaos.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		w.killLeaders(ctx, newRand(seed, 20), killed)
	})
	err := w.publish(ctx, asks, d*3/5)
	chaos.Wait()
	calm := time.Now()
	w.setFaults()
	if err == nil {
		err = w.clear(ctx, asks)
	}
	w.conclude(ctx, asks, row{"leaders killed", killed}, row{"told while disturbed", len(asks) - w.open(calm, asks)},
		row{"time to clear afterwards", time.Since(calm).Round(time.Second / 10)})
	if err != nil {
		w.fail(err)
	}
	if len(killed) == 0 {
		t.Error("no leader was killed")
	}
}

// replicated are the streams that the promise needs.
var replicated = []string{consumer.StreamRequests, "KV_" + ledger.DefaultBucket, consumer.StreamResults, consumer.StreamDeadLetters}

// killLeaders kills the leader of one stream after the other by kill -9, starts it again, and goes on
// when all streams have all their replicas again.
func (w *world) killLeaders(ctx context.Context, rng *rand.Rand, killed map[string]int) {
	for n := 0; ctx.Err() == nil; n++ {
		if poll(ctx, "replicas", func() bool { return w.whole(ctx) }) != nil {
			return
		}
		if wait(ctx, time.Duration(500+rng.IntN(1000))*time.Millisecond) != nil {
			return
		}
		stream := replicated[n%3]
		leader, err := w.leader(ctx, stream)
		if err != nil {
			continue
		}
		killed[stream]++
		leader.proc.signal(syscall.SIGKILL)
		<-leader.proc.done
		_ = wait(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
		if err := leader.start(context.WithoutCancel(ctx)); err != nil {
			w.t.Errorf("a broker doesn't come back: %v", err)
			return
		}
	}
}

// leader returns the broker that leads a stream.
func (w *world) leader(ctx context.Context, stream string) (*broker, error) {
	s, err := w.js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	info := s.CachedInfo()
	if info.Cluster == nil {
		return nil, fmt.Errorf("%s is not replicated", stream)
	}
	i := slices.IndexFunc(w.brokers, func(b *broker) bool { return b.name == info.Cluster.Leader })
	if i < 0 {
		return nil, fmt.Errorf("%s has no leader", stream)
	}
	return w.brokers[i], nil
}

// whole reports whether every stream has a leader and two replicas that have caught up.
func (w *world) whole(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, name := range replicated {
		s, err := w.js.Stream(ctx, name)
		if err != nil {
			return false
		}
		c := s.CachedInfo().Cluster
		if c == nil || c.Leader == "" || len(c.Replicas) != 2 {
			return false
		}
		for _, r := range c.Replicas {
			if !r.Current || r.Offline {
				return false
			}
		}
	}
	return true
}
