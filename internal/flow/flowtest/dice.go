package flowtest

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
)

// dice is a seeded source of randomness that several goroutines may share.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

// newDice returns a source of its own for every pair of seed and stream.
func newDice(seed int64, stream uint64) *dice {
	return &dice{rng: rand.New(rand.NewPCG(uint64(seed), stream))} //nolint:gosec // repeatable, not secret
}

// chance returns true with probability p.
func (d *dice) chance(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64() < p
}

func (d *dice) bytes() (b [16]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range b {
		b[i] = byte(d.rng.Uint32())
	}
	return b
}

// uuid returns a version 4 UUID.
func (d *dice) uuid() string { return formatUUID(d.bytes()) }

func (d *dice) hex() string {
	b := d.bytes()
	return hex.EncodeToString(b[:])
}

func formatUUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
