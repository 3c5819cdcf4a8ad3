package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
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
		book, err := openLedger(ctx, js, s, nil)
		if err != nil {
			return err
		}
		did := book.Setup()
		objects.Ledger = book
		objects.Report = append(objects.Report, Object{ledger.DefaultBucket, did.Created, did.Changed, did.Kept})
		if !s.ManageStreams {
			return nil
		}
		err = new(ledger.Guard).Check(ctx, book) // the first note is best written while the bucket is new
		if errors.Is(err, ledger.ErrNotNoted) {
			return nil // the workers will do it
		}
		return err
	}
	report, err := consumer.EnsureObjects(ctx, js, consumer.ObjectsConfig{
		Manage: s.ManageStreams, Replicas: s.Replicas, AckWait: s.AckWait, MaxBytes: s.StreamMaxBytes, Ledger: ensureLedger,
	})
	for _, c := range report {
		objects.Report = append(objects.Report, Object{c.Name, c.Created, c.Changed, c.Kept})
	}
	if err != nil {
		return objects, fmt.Errorf("the NATS objects: %w", err)
	}
	return objects, nil
}

// openLedger opens the ledger. The guard, if there is one, is told of what is written.
func openLedger(ctx context.Context, js jetstream.JetStream, s settings.Settings, g *ledger.Guard) (*ledger.Ledger, error) {
	return ledger.Open(ctx, js, ledger.Config{Replicas: s.Replicas, Manage: s.ManageStreams, MaxBytes: s.StreamMaxBytes, Guard: g})
}
