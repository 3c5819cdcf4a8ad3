package vault

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	loginGap      = time.Second      // the least time between two attempts to log in
	loginDelayMax = 30 * time.Second // the longest, before jitter and unless Vault asks for more
	loginAfterMax = 5 * time.Minute  // of a Retry-After, what is heeded: a wrong one must not keep the worker out
	forcedGap     = 30 * time.Second // the least time between two logins that refused reads ask for
	unknownGap    = 5 * time.Minute  // between two looks at a given token of which nobody says how long it lasts
	lookAgain     = time.Second      // between two looks at a credential's file
)

// lease is how long a token lasts, as far as Vault says so: reads show whether the token works.
type lease struct {
	ttl       time.Duration // 0 means for ever
	unknown   bool          // nobody says how long it lasts; ttl is 0
	asked     time.Time     // when ttl began at the earliest: before Vault was asked
	renewable bool
}

// run gets a token, keeps it alive and gets the next one in time, until ctx ends. A token that lasts for less
// than loginGap is no reason to log in more often.
func (s *session) run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	if s.tokenFile != "" {
		following.Go(func() {
			for s.awaitChange(ctx, func() (string, error) { return readTokenFile(s.tokenFile) }, s.inUse) {
				s.ask()
			}
		})
	}
	for ctx.Err() == nil {
		if l, ok := s.obtain(ctx); ok {
			next := time.Now().Add(loginGap)
			s.keep(ctx, l)
			_ = sleep(ctx, time.Until(next)) // the loop looks at ctx
		}
	}
}

func (s *session) inUse(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held && token == s.api.Token()
}

// obtain logs in, again and again until that works or ctx ends. The old token, if any, stays in use meanwhile.
func (s *session) obtain(ctx context.Context) (lease, bool) {
	delays := loginDelays()
	for {
		token, l, err := s.attempt(ctx)
		if ctx.Err() != nil {
			return lease{}, false
		}
		s.conclude(token, l, err)
		if err == nil {
			s.log.InfoContext(ctx, "vault: logged in", "ttl", l.ttl, "ttl_unknown", l.unknown, "renewable", l.renewable)
			return l, true
		}
		if err.refusal != nil {
			s.log.WarnContext(ctx, "vault: cannot log in", "error", err, "next_try_in", err.refusal.wait)
			if old, ok := s.sitOut(ctx, err.refusal); ok || ctx.Err() != nil {
				return old, ok
			}
			delays.Reset()
			continue
		}
		least := max(loginGap, min(err.RetryAfter, loginAfterMax))
		delay := max(least, delays.NextBackOff())
		s.log.WarnContext(ctx, "vault: cannot log in", "error", err, "next_try_in", delay)
		s.retried(err)
		if sleep(ctx, least) != nil {
			return lease{}, false
		}
		s.rest(ctx, delay-least)
	}
}

func loginDelays() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(loginGap), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(loginDelayMax), backoff.WithMaxElapsedTime(0))
}

// attempt logs in once.
func (s *session) attempt(ctx context.Context) (string, lease, *failure) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	begun := time.Now()
	token, l, err := s.login(ctx)
	l.asked = begun
	if token != "" || err != nil { // else an agent has the token, and nothing was sent
		s.metrics.count(opLogin, err)
	}
	return token, l, err
}

// sitOut waits until there is another credential than the refused one, or the refusal's time is over, and keeps
// the old token alive meanwhile. It reports true, with the old token's lease, if that token is well and there is
// nothing new to log in with.
func (s *session) sitOut(ctx context.Context, r *refusal) (lease, bool) {
	waiting, end := context.WithTimeout(ctx, r.wait)
	defer end()
	changed := make(chan bool, 1)
	go func() {
		defer end()
		if r.file == "" {
			<-waiting.Done() // nothing can change
			changed <- false
			return
		}
		changed <- s.awaitChange(waiting, func() (string, error) { return readSecretFile(r.setting, r.file) }, r.isUsed)
	}()
	if old := s.remaining(); old.renewable {
		s.keep(waiting, old)
	}
	other := <-changed
	old := s.remaining()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = nil
	return old, !other && old.renewable && s.err == nil
}

// awaitChange reports true as soon as a file holds another credential than those that are known, and false when
// ctx ends. A new one counts at the second look, for at the first the file may be half written.
func (s *session) awaitChange(ctx context.Context, look func() (string, error), known func(string) bool) bool {
	for seen := ""; sleep(ctx, lookAgain) == nil; {
		now, err := look()
		switch {
		case err != nil || known(now):
			seen = "" // it may be being replaced
		case now == seen:
			return true
		default:
			seen = now
		}
	}
	return false
}

// keep renews the token, at once and then whenever about two thirds of its time are over, for as long as Vault extends
// it, and returns when another token is needed, is asked for, or ctx ends.
func (s *session) keep(ctx context.Context, l lease) {
	delays := loginDelays()
	longest := l.ttl
	for l.renewable && (l.ttl > 0 || l.unknown) {
		renewed, err := s.renew(ctx)
		switch {
		case ctx.Err() != nil, err != nil && err.invalid:
			return
		case err != nil && err.stays():
			l = s.remaining()
			l.renewable = false
		case err != nil:
			s.retried(err)
			if !s.rest(ctx, min(max(delays.NextBackOff(), err.RetryAfter), s.left())) || s.left() <= 0 {
				return
			}
		default:
			delays.Reset()
			l = renewed
			l.renewable = l.renewable && l.ttl > 0 && l.ttl >= longest/2 // else Vault extends it no further
			longest = max(longest, l.ttl)
			if l.renewable && !s.rest(ctx, l.ttl/3*2+rand.N(l.ttl/15)) {
				return
			}
		}
	}
	s.outlive(ctx, l)
}

// renew renews the token once, and notes how that went.
func (s *session) renew(ctx context.Context) (lease, *failure) {
	asking, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	asked := time.Now()
	once, after := heeding(s.api)
	answer, err := once.Auth().Token().RenewSelfWithContext(asking, 0)
	if ctx.Err() != nil {
		return lease{}, nil
	}
	var l lease
	var f *failure
	if err != nil {
		f = classify(opRenew, "renew the token", err, s.known.with(s.api.Token())...)
		f.RetryAfter = *after
	} else if _, l, f = grant("renew the token", answer); f == nil {
		// Vault says whole seconds; 0 is less than one here, not for ever. Of a given token it may be wrong.
		l.unknown = s.static && l.ttl <= 0
		l.asked = asked
		if !l.unknown {
			l.ttl = max(l.ttl, time.Second)
		}
	}
	s.metrics.count(opRenew, f)
	if f == nil {
		s.log.InfoContext(ctx, "vault: token renewed", "ttl", l.ttl, "ttl_unknown", l.unknown)
	} else {
		s.log.WarnContext(ctx, "vault: cannot renew the token", "error", f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f == nil:
		s.err = nil
		s.setExpiry(l)
	case !f.stays() || f.invalid: // else the token is as good as before
		s.err = f
	}
	return l, f
}

// stays reports whether a look-up or a renewal of the token failed for a reason that stays: Vault does not extend
// this token, the policy leaves renewals out, or what stands before Vault does not let them through.
func (f *failure) stays() bool {
	return f.Problem == provision.SecretDenied || f.foreign || f.unknown
}

// outlive waits with a token that can't be renewed, or never ends, until another one is needed, is asked for, or
// ctx ends. A third of its time is left for Vault to come back in, or for a given token to be looked at again:
// somebody else may have renewed it.
func (s *session) outlive(ctx context.Context, l lease) {
	switch {
	case l.unknown && s.static && s.api.Token() != "":
		s.rest(ctx, unknownGap)
	case l.ttl == 0:
		s.rest(ctx, math.MaxInt64)
	default:
		if s.static {
			s.warn(ctx, l)
		}
		s.rest(ctx, max(l.ttl/3*2, time.Second))
	}
}

// warn warns once of each end of a given token.
func (s *session) warn(ctx context.Context, l lease) {
	s.mu.Lock()
	before := s.expires.Sub(s.warned).Abs() <= 2*time.Second // Vault says whole seconds
	s.warned = s.expires
	s.mu.Unlock()
	if !before {
		s.log.WarnContext(ctx, "vault: VAULT_TOKEN ends and can't be renewed further; give the worker a new one or another VAULT_AUTH", "ttl", l.ttl)
	}
}

// rest waits for d. It reports false, earlier, when a login is asked for or ctx ends.
func (s *session) rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.wanted:
	case <-ctx.Done():
	}
	return false
}

// sleep waits for d, or returns the error of ctx where that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
