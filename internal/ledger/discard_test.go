package ledger

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// deafWatcher is a watch that the client library never closes.
type deafWatcher struct{ jetstream.KeyWatcher }

func (deafWatcher) Stop() error                             { return nil }
func (deafWatcher) Updates() <-chan jetstream.KeyValueEntry { return nil }

// TestDiscardWaitsForNobody: whoever asked for a watch that never closes must not hang with it, and
// nothing stays behind for ever (the bubble would not end).
func TestDiscardWaitsForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		discard(deafWatcher{})
		if time.Since(began) != 0 {
			t.Errorf("waited %v", time.Since(began))
		}
		<-time.After(2 * discardWithin)
	})
}
