package inquiry

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

const (
	largeQuestion = 510_000 // bytes
	eachFlooder   = 120
)

// flood sends questions of acme's, large ones and small ones, until there were many, from two connections.
func flood(t *testing.T, url string) *sync.WaitGroup {
	t.Helper()
	large := []byte(`{"id":"ok-1"}` + strings.Repeat(" ", largeQuestion))
	var flooders sync.WaitGroup
	for range 2 {
		nc := natstest.Connect(t, url).Conn()
		flooders.Go(func() {
			for range eachFlooder {
				err := nc.PublishRequest(Subject("acme"), nc.NewRespInbox(), large)
				for range 10 {
					err = errors.Join(err, nc.PublishRequest(Subject("acme"), nc.NewRespInbox(), large[:13]))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if err := nc.FlushWithContext(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
	return &flooders
}

// While one tenant sends more than anybody can read, another one is answered, and little is kept.
func TestFloodOfOneTenant(t *testing.T) {
	t.Parallel()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	d := newServer(Config{Conn: natstest.Connect(t, url, nats.MaxReconnects(-1)).Conn(), Find: shelf{record("globex", "/a", "r-1")}.find})
	Quiet(d.cfg.Conn, nil)
	sub, err := d.listen()
	if err == nil {
		err = d.cfg.Conn.FlushWithContext(within(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(within(t))
	var served sync.WaitGroup
	served.Go(func() { d.serve(ctx) })
	defer served.Wait()
	defer stop()
	flooders := flood(t, url)
	over := make(chan struct{})
	go func() { flooders.Wait(); close(over) }()
	answers, globex := 0, natstest.Connect(t, url).Conn()
	pace := time.NewTicker(time.Second / 10) // well below what a tenant may ask
	defer pace.Stop()
	for flooding := true; flooding || answers < 1; answers++ {
		select {
		case <-over:
			flooding = false
		default:
		}
		<-pace.C
		got, err := Ask(within(t), globex, "globex", Question{ID: "r-1"})
		if errors.Is(err, ErrNobody) { // the server has cut the questions off
			answers--
		} else if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
	}
	most, bytes, err := sub.MaxPending()
	if err != nil || bytes > maxUnsorted+2*largeQuestion {
		t.Errorf("%d messages of %d bytes have waited, %v", most, bytes, err)
	}
	dropped, _ := sub.Dropped()
	t.Logf("globex had %d answers; at most %d messages of %d bytes waited unsorted, %d were dropped so; the server cut the questions off %d times", answers, most, bytes, dropped, d.cfg.Conn.Stats().Reconnects)
}
