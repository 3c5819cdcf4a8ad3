package vault

import (
	"cmp"
	"context"
	"math"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// usable reports whether there is a token that has not ended. A given one is used until a read is refused,
// whatever is said of its end: somebody else may renew it. The caller holds mu.
func (s *session) usable() bool {
	return s.held && (s.static || s.expires.IsZero() || s.clock.Now().Before(s.expires))
}

// ask wakes run to log in. The caller holds mu.
func (s *session) ask() {
	select {
	case s.wanted <- struct{}{}:
	default: // asked for already
	}
}

// token waits until there is a token, for at most one attempt to get one, and returns its number.
func (s *session) token(ctx context.Context) (uint64, *failure) {
	s.mu.Lock()
	if s.usable() {
		defer s.mu.Unlock()
		return s.gen, nil
	}
	if f := s.leftAlone(); f != nil {
		defer s.mu.Unlock()
		return 0, f
	}
	concluded := s.concluded
	s.ask()
	s.mu.Unlock()
	gen, f := s.await(ctx, concluded)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.static && s.held {
		return s.gen, nil // the attempt may have failed; whether the token works is for the read to show
	}
	return gen, f
}

// worked notes that a read was served with the token of number gen: whatever else was said of a given token,
// it is good.
func (s *session) worked(gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.static && s.held && s.gen == gen {
		s.err = nil
	}
}

// failed notes that a given token was refused as invalid.
func (s *session) failed(gen uint64, f *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.static && f.invalid && s.gen == gen && s.err == nil {
		s.err = f
	}
}

// leftAlone returns the failure of the last login while no other one may be tried: the credential was
// refused, or Vault wants to be left alone for longer than a read waits. Else it returns nil. The caller
// holds mu.
func (s *session) leftAlone() *failure {
	if s.refused != nil {
		return unquick(s.refused)
	}
	left := s.notBefore.Sub(s.clock.Now())
	if s.err == nil || left <= longestAfter {
		return nil
	}
	f := *s.err.SecretError
	f.RetryAfter = left
	return &failure{SecretError: &f, login: true}
}

// another waits for a token other than the one of number gen, with which Vault has refused something.
// Where none is to be had so soon after the last one, it returns gen. For a token that Vault says is
// invalid there is always another one, if only after loginGap, which run keeps; one that only lacks
// rights may well lack them for good.
func (s *session) another(ctx context.Context, gen uint64, invalid bool) (uint64, *failure) {
	s.mu.Lock()
	now := s.clock.Now()
	if s.gen != gen || !s.forcing && !invalid && now.Sub(s.forced) < forcedGap {
		defer s.mu.Unlock()
		return s.gen, nil
	}
	if f := s.leftAlone(); f != nil {
		defer s.mu.Unlock()
		return 0, f
	}
	if !s.forcing { // else others were refused too, and one login is enough for all
		s.forced, s.forcing = now, true
		s.ask()
	}
	concluded := s.concluded
	s.mu.Unlock()
	return s.await(ctx, concluded)
}

// await waits for the end of an attempt to log in and returns the number of the token it gave.
func (s *session) await(ctx context.Context, concluded <-chan struct{}) (uint64, *failure) {
	select {
	case <-concluded:
	case <-ctx.Done():
		return 0, s.waitedInVain(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmp.Or(s.refused, s.err); err != nil { // the old token may have been renewed since it was refused
		return 0, unquick(err)
	}
	return s.gen, nil
}

// unquick returns f as something that is not worth another try at once: run tries already.
func unquick(f *failure) *failure { return &failure{SecretError: f.SecretError, login: true} }

func (s *session) waitedInVain(ctx context.Context) *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return unavailable(provision.CauseTimeout, "no Vault token: %w; the last attempt: %w", ctx.Err(), s.err.Err)
	}
	return unavailable(provision.CauseTimeout, "no Vault token: %w", ctx.Err())
}

// ready returns nil if there is a token, the latest attempt to get or renew one went well, and none waits
// for another credential.
func (s *session) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := cmp.Or(s.refused, s.err)
	switch {
	case err != nil:
		return err.public()
	case !s.usable():
		return unavailable("", "the Vault token has ended").public()
	}
	return nil
}

// ttl is what the gauge shows.
func (s *session) ttl() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.usable(), s.err != nil && s.err.invalid:
		return 0
	case s.unknown:
		return math.NaN()
	case s.expires.IsZero():
		return math.Inf(1)
	}
	return max(0, s.expires.Sub(s.clock.Now()).Seconds())
}
