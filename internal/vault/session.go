package vault

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	loginGap      = time.Second      // the least time between two attempts to log in
	loginDelayMax = 30 * time.Second // the longest, before jitter and unless Vault asks for more
	loginAfterMax = 5 * time.Minute  // of a Retry-After, what is heeded: a wrong one must not keep the worker out
	forcedGap     = 30 * time.Second // the least time between two logins that refused reads ask for
)

// errNoRun is what a session without a token and without an attempt to get one says.
var errNoRun = errors.New("not logged in yet")

// session keeps one token alive. Its run method alone gets tokens; all others use them.
type session struct {
	api       *vaultapi.Client
	login     login
	static    bool   // the token is given, or added by an agent: logging in again gives no other, and reads show whether it works
	tokenFile string // where a given token is kept; empty where it doesn't change
	timeout   time.Duration
	clock     provision.Clock
	log       *slog.Logger
	metrics   metrics
	onRetry   func(provision.Target, provision.Cause)
	known     *keyring // no error tells these

	mu        sync.Mutex
	gen       uint64        // counts the tokens; 0 means there was none yet
	held      bool          // there is a token; it is in api
	renewable bool          // the token, when it was new
	expires   time.Time     // of the token; zero means never, or unknown
	unknown   bool          // nobody says when the token ends
	warned    time.Time     // the end of a given token that was warned of
	err       *failure      // why the latest attempt to get or renew a token failed; nil if it did not
	refused   *failure      // of the latest login, while no other one may be tried; nil if one may
	forced    time.Time     // when a refused read last asked for a login
	forcing   bool          // that login has not ended yet
	notBefore time.Time     // Vault asked for no login before this
	concluded chan struct{} // closed, and replaced, when an attempt to log in has ended
	wanted    chan struct{} // holds one: a login is asked for

	watchers sync.WaitGroup // the LifetimeWatchers that still run
}

func (s *session) init() {
	s.concluded = make(chan struct{})
	s.wanted = make(chan struct{}, 1)
	s.err = unavailable("", "%w", errNoRun)
}

// run gets a token, keeps it alive and gets the next one in time, until ctx ends. A token that lasts
// for less than loginGap is no reason to log in more often.
func (s *session) run(ctx context.Context) {
	defer s.watchers.Wait()
	if s.tokenFile != "" {
		s.watchers.Go(func() { s.followFile(ctx) })
	}
	for ctx.Err() == nil {
		if l, ok := s.obtain(ctx); ok {
			next := s.clock.Now().Add(loginGap)
			s.keep(ctx, l)
			_ = s.clock.Sleep(ctx, next.Sub(s.clock.Now())) // the loop looks at ctx
		}
	}
}

// obtain logs in, again and again until that works or ctx ends. The old token, if any, stays in use
// meanwhile.
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
		if s.clock.Sleep(ctx, least) != nil {
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
	begun := s.clock.Now()
	token, l, err := s.login(ctx)
	l.asked = begun
	if token != "" || err != nil { // else an agent has the token, and nothing was sent
		s.metrics.count(opLogin, err)
	}
	return token, l, err
}

// conclude puts the outcome of an attempt to log in to use and wakes who waits for it.
func (s *session) conclude(token string, l lease, err *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.forcing, s.notBefore = err, false, time.Time{}
	if err != nil && err.RetryAfter > 0 {
		s.notBefore = s.clock.Now().Add(min(err.RetryAfter, loginAfterMax))
	}
	s.refused = nil
	switch {
	case err == nil:
		s.hold(token)
		s.renewable = l.renewable
		s.setExpiry(l)
		s.drainWanted()
	case err.refusal != nil:
		s.refused = err
		s.drainWanted() // nobody asks in vain
	case s.static && token != "" && (!s.held || token != s.api.Token()):
		s.hold(token) // whatever was said of it
		s.setExpiry(lease{unknown: true})
	}
	close(s.concluded)
	s.concluded = make(chan struct{})
}

// hold puts a token to use. The caller holds mu.
func (s *session) hold(token string) {
	s.api.SetToken(token)
	s.known.add(token)
	s.gen++
	s.held = true
}

// setExpiry notes when the token ends at the earliest. The caller holds mu.
func (s *session) setExpiry(l lease) {
	s.expires, s.unknown = time.Time{}, l.unknown
	if l.ttl > 0 {
		s.expires = l.asked.Add(l.ttl)
	}
}

// drainWanted forgets what was asked for before the token of now.
func (s *session) drainWanted() {
	select {
	case <-s.wanted:
	default:
	}
}

// left is how long the token lasts; very long for one that never ends.
func (s *session) left() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expires.IsZero() {
		return math.MaxInt64
	}
	return s.expires.Sub(s.clock.Now())
}

// remaining returns what is left of the token's lease, as far as it is known.
func (s *session) remaining() lease {
	left := s.left()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expires.IsZero() {
		return lease{unknown: s.unknown}
	}
	return lease{ttl: max(left, time.Second)}
}

// followFile asks for another look-up whenever the token's file holds another token than the one in use. A new
// one counts once two looks have found the same, for at the first it may be half written.
func (s *session) followFile(ctx context.Context) {
	for seen := ""; s.clock.Sleep(ctx, lookAgain) == nil; {
		token, err := readTokenFile(s.tokenFile)
		if err != nil {
			seen = "" // it may be being replaced
			continue
		}
		s.mu.Lock()
		if token == seen && (!s.held || token != s.api.Token()) {
			s.ask()
		}
		s.mu.Unlock()
		seen = token
	}
}

// rest waits for d. It reports true, perhaps earlier, when a login is asked for.
func (s *session) rest(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	woken := make(chan bool, 1)
	go func() {
		select {
		case <-s.wanted:
			woken <- true
			cancel()
		case <-ctx.Done():
			woken <- false
		}
	}()
	_ = s.clock.Sleep(ctx, d) // why it ended is told by woken
	cancel()
	return <-woken
}

func (s *session) retried(err *failure) {
	if err.Cause != "" {
		s.onRetry(provision.TargetVault, err.Cause)
	}
}
