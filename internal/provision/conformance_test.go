package provision_test

import (
	"testing"

	"github.com/flow-worker/flow-worker/internal/ledger/ledgertest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestDoubleIsALedger runs the suite that internal/ledger runs over the KV bucket.
func TestDoubleIsALedger(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(*testing.T) provision.Ledger { return provision.NewMemLedger() })
}
