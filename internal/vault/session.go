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
	loginDelayMax = 30 * time.Second // the longest, before jitter
	forcedGap     = 30 * time.Second // the least time between two logins that refused reads ask for
)

// errNoRun is what a session without a token and without an attempt to get one says.
var errNoRun = errors.New("not logged in yet")

// session keeps one token alive. Its run method alone gets tokens; all others use them.
type session struct {
	api     *vaultapi.Client
	login   login
	static  bool // the token is given: logging in again gives no other
	timeout time.Duration
	clock   provision.Clock
	log     *slog.Logger
	metrics metrics
	onRetry func(provision.Target, provision.Cause)

	mu        sync.Mutex
	gen       uint64        // counts the tokens; 0 means there was none yet
	held      bool          // there is a token; it is in api
	expires   time.Time     // of the token; zero means never
	err       *failure      // why the latest attempt to get or renew a token failed; nil if it did not
	forced    time.Time     // when a refused read last asked for a login
	forcing   bool          // that login has not ended yet
	concluded chan struct{} // closed, and replaced, when an attempt to log in has ended
	wanted    chan struct{} // holds one: a login is asked for
}

func (s *session) init() {
	s.concluded = make(chan struct{})
	s.wanted = make(chan struct{}, 1)
	s.err = unavailable("", "%w", errNoRun)
}

// run gets a token, keeps it alive and gets the next one in time, until ctx ends.
func (s *session) run(ctx context.Context) {
	for ctx.Err() == nil {
		if l, ok := s.obtain(ctx); ok {
			s.keep(ctx, l)
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
			s.log.InfoContext(ctx, "vault: logged in", "ttl", l.ttl, "renewable", l.renewable)
			return l, true
		}
		delay := max(loginGap, delays.NextBackOff())
		s.log.WarnContext(ctx, "vault: cannot log in", "error", err, "next_try_in", delay)
		s.retried(err)
		if s.clock.Sleep(ctx, loginGap) != nil {
			return lease{}, false
		}
		s.rest(ctx, delay-loginGap)
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
	token, l, err := s.login(ctx)
	s.metrics.count(opLogin, err)
	return token, l, err
}

// conclude puts the outcome of an attempt to log in to use and wakes who waits for it.
func (s *session) conclude(token string, l lease, err *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.forcing = err, false
	switch {
	case err == nil:
		s.api.SetToken(token)
		s.gen++
		s.held = true
		s.setExpiry(l)
		s.drainWanted()
	case s.static && err.Problem == provision.SecretDenied:
		s.held = false // Vault has just said that this very token is no good
	}
	close(s.concluded)
	s.concluded = make(chan struct{})
}

func (s *session) setExpiry(l lease) {
	s.expires = time.Time{}
	if l.ttl > 0 {
		s.expires = s.clock.Now().Add(l.ttl)
	}
}

// drainWanted forgets what was asked for before the token of now.
func (s *session) drainWanted() {
	select {
	case <-s.wanted:
	default:
	}
}

// keep renews the token until another one is needed, is asked for, or ctx ends.
func (s *session) keep(ctx context.Context, first lease) {
	full := first.ttl // what a renewal gives, as far as is known: a given token may have been told of late in its time
	for now := first; ; {
		if s.static && !now.renewable && now.ttl > 0 {
			s.log.WarnContext(ctx, "vault: VAULT_TOKEN ends and can't be renewed further; give the worker a new one or another VAULT_AUTH", "ttl", now.ttl)
		}
		if s.rest(ctx, s.untilCare(now)) || ctx.Err() != nil || !now.renewable {
			return
		}
		next, ok := s.renew(ctx)
		if !ok {
			return
		}
		full = max(full, next.ttl)
		if next.ttl <= full/2 { // the end of all renewals is near
			if !s.static {
				return
			}
			next.renewable = false
		}
		now = next
	}
}

// untilCare is how long a token may be left alone: two thirds of its time, so that a third is left
// for Vault to come back in. A given token that can't be renewed is left alone to its end.
func (s *session) untilCare(l lease) time.Duration {
	switch {
	case l.ttl == 0:
		return math.MaxInt64
	case s.static && !l.renewable:
		return l.ttl
	}
	return l.ttl / 3 * 2
}

// renew extends the token; while Vault is unavailable it tries again until the token ends. It reports
// whether the token was extended.
func (s *session) renew(ctx context.Context) (lease, bool) {
	delays := loginDelays()
	for {
		l, err := s.renewOnce(ctx)
		if ctx.Err() != nil {
			return lease{}, false
		}
		s.renewed(l, err)
		if err == nil {
			s.log.InfoContext(ctx, "vault: token renewed", "ttl", l.ttl)
			return l, true
		}
		s.log.WarnContext(ctx, "vault: cannot renew the token", "error", err)
		if err.Problem == provision.SecretDenied || s.left() <= 0 {
			return lease{}, false
		}
		s.retried(err)
		if s.rest(ctx, min(delays.NextBackOff(), s.left())) || ctx.Err() != nil {
			return lease{}, false
		}
	}
}

func (s *session) renewOnce(ctx context.Context) (lease, *failure) {
	const doing = "renew the token"
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answer, err := s.api.Auth().Token().RenewSelfWithContext(ctx, 0)
	var l lease
	var bad *failure
	if err != nil {
		bad = classify(opRenew, doing, err, s.api.Token())
	} else {
		_, l, bad = grant(doing, answer)
	}
	l.ttl = max(l.ttl, time.Second) // Vault tells whole seconds; 0 is less than one here, not for ever
	s.metrics.count(opRenew, bad)
	return l, bad
}

func (s *session) renewed(l lease, err *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if err == nil {
		s.setExpiry(l)
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
