package ledger

import "time"

// NoteKey is where the bucket says of itself how complete it is.
const NoteKey = noteKey

// SetClock gives g another clock, before its first use.
func (g *Guard) SetClock(now func() time.Time) { g.clock = now }
