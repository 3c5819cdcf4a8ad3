package app

import (
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/ledger"
)

// TestAYoungLedgerBesideAnOldStream: then an earlier ledger is lost, and a repeat of what it knew must
// be looked up before it is posted again.
func TestAYoungLedgerBesideAnOldStream(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		age  ledgerAge
		want time.Time
	}{
		"made before the stream":       {ledgerAge{created: now, stream: now.Add(time.Second)}, time.Time{}},
		"made by the same set-up":      {ledgerAge{created: now, stream: now.Add(-time.Minute)}, time.Time{}},
		"there is no stream yet":       {ledgerAge{created: now}, time.Time{}},
		"the stream is two months old": {ledgerAge{created: now, stream: now.AddDate(0, -2, 0)}, now.Add(ledger.DefaultTTL)},
	} {
		if got := c.age.lookFirstUntil(); !got.Equal(c.want) {
			t.Errorf("%s: look first until %v, want %v", name, got, c.want)
		}
	}
}
