package flowtest

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestListLag(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(*bed){
		"config":          func(b *bed) { b.em.cfg.ListLag = time.Minute },
		"fault on create": func(b *bed) { b.em.AddFault(Fault{Operation: OpCreate, Effect: EffectListLag, Delay: time.Minute}) },
		"fault on list":   func(b *bed) { b.em.AddFault(Fault{Operation: OpList, Effect: EffectListLag, Delay: time.Minute}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			arrange(b)
			made := b.create("a")
			b.clock.advance(time.Minute - 1)
			b.get("/connections/"+made.ID).want(t, 200)
			if got := b.names(query("name==a")); len(got) != 0 {
				t.Errorf("listed too early: %q", got)
			}
			b.clock.advance(1)
			if got := b.names(query("name==a")); len(got) != 1 {
				t.Errorf("not listed after the lag: %q", got)
			}
		})
	}
}

func TestInitializing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectInitializing, Delay: time.Minute})
	made := b.create("a")
	one := "/connections/" + made.ID
	b.do("DELETE", one, "", nil).want(t, 400).wantCode(t, "1417-400")
	b.do("PATCH", one, `[]`, map[string]string{"If-Match": made.Etag}).want(t, 400).wantCode(t, "1417-400")
	if got := b.names(query("state==initializing")); len(got) != 1 {
		t.Errorf("initializing connections: %q, want one", got)
	}
	b.clock.advance(time.Minute)
	if got := b.names(query("state==enabled")); len(got) != 1 {
		t.Errorf("enabled connections: %q, want one", got)
	}
	b.do("DELETE", one, "", nil).want(t, 204)
}

// TestLatency shows that every latency is waited for, once each, and before what.
func TestLatency(t *testing.T) {
	t.Parallel()
	type nap struct {
		For    time.Duration
		Stored int
	}
	naps := make(chan nap, 2)
	var b *bed
	b = newBed(t, func(c *Config) {
		c.Latency = time.Second
		c.Sleep = func(_ context.Context, d time.Duration) error {
			naps <- nap{d, len(b.em.Connections())}
			return nil
		}
	})
	b.em.SetFaults(
		Fault{Effect: EffectLatency, Delay: 2 * time.Second},
		Fault{Effect: EffectLatency, Delay: 5 * time.Second, When: StageAfter},
	)
	b.create("a")
	if diff := cmp.Diff([]nap{{3 * time.Second, 0}, {5 * time.Second, 1}}, []nap{<-naps, <-naps}); diff != "" {
		t.Errorf("naps (-want +got):\n%s", diff)
	}
}

// TestLatencyOutlivesClient shows that a client that gives up does not stop the work.
func TestLatencyOutlivesClient(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectLatency, Delay: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := b.try(ctx, http.MethodPost, "/connections", createJSON("a", ""), nil)
		done <- err
	}()
	b.wait(func(e *Emulator) bool { return e.Count(OpCreate) == 1 })
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want it cancelled", err)
	}
	b.wait(func(e *Emulator) bool { return len(e.Connections()) == 1 })
}
