package vault

import (
	"slices"
	"sync"
)

// maxKnown is how many of the worker's own secrets a keyring remembers: the present ones and some that
// are on their way out.
const maxKnown = 8

// keyring remembers the worker's own secrets, tokens and what it logs in with, so that no error tells one:
// a proxy may say of one call what it heard in another. Its methods are safe for concurrent use.
type keyring struct {
	mu    sync.Mutex
	known []string // oldest first
}

// add remembers a secret, and forgets the oldest where there are too many.
func (k *keyring) add(secret string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if secret == "" || slices.Contains(k.known, secret) {
		return
	}
	k.known = append(k.known, secret)
	if len(k.known) > maxKnown {
		k.known = slices.Delete(k.known, 0, 1)
	}
}

// with returns all that is known, and the secrets of the call at hand.
func (k *keyring) with(secrets ...string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append(secrets, k.known...)
}
