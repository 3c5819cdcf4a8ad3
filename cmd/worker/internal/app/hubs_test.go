package app

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// idle stands for parts that are not used: calling one of its methods is a nil dereference.
type idle struct {
	provision.Ledger
	provision.Secrets
	provision.Connections
}

func testHubs(open func() (time.Time, error)) *hubs {
	return &hubs{
		open: func(context.Context) (provision.Ledger, time.Time, error) {
			at, err := open()
			return idle{}, at, err
		},
		config: provision.Config{
			Secrets: idle{}, Connections: idle{}, Instance: "test", FlowTimeout: time.Second, Settle: time.Second,
			RetryInitial: time.Second, RetryDelayMax: time.Second, RetryElapsed: time.Second,
			RedeliveryDelayMax: time.Second, RequestDeadline: time.Second,
		},
	}
}

func TestANewLedgerGetsANewHub(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	h := testHubs(func() (time.Time, error) { return at, nil })
	renew := func() *provision.Hub {
		t.Helper()
		if err := h.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.hub
	}
	first := renew()
	if !first.LedgerCreated.Equal(at) {
		t.Errorf("the hub thinks its ledger is of %v, want %v", first.LedgerCreated, at)
	}
	if renew() != first {
		t.Error("another hub on the same ledger: it would not know what is in hand")
	}
	at = at.Add(time.Hour)
	if second := renew(); second == first || !second.LedgerCreated.Equal(at) {
		t.Errorf("the ledger was made anew, and the hub does not know")
	}
}

func TestNoHubWithoutALedger(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	h := testHubs(func() (time.Time, error) { return time.Time{}, down })
	if err := h.renew(t.Context()); !errors.Is(err, down) || h.hub != nil {
		t.Errorf("got %v and hub %v", err, h.hub)
	}
}

func TestAWrongHubConfigIsToldAtOnce(t *testing.T) {
	t.Parallel()
	h := testHubs(func() (time.Time, error) { return time.Unix(1, 0), nil })
	h.config.Settle = 0
	if err := h.renew(t.Context()); err == nil || h.hub != nil {
		t.Errorf("got %v and hub %v", err, h.hub)
	}
}
