package provision

// NewMemLedger hands the tests' double to the conformance suite, which can't be imported from here.
func NewMemLedger() Ledger { return newMemLedger() }
