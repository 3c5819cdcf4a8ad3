package vault

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// keep renews the token until another one is needed, is asked for, or ctx ends.
//
// Vault's own LifetimeWatcher does the renewing and decides when a token is near its end. It gives up
// at the first error, not only at the last: left to itself it would try again ever more rarely, up to
// each five minutes, and so learn late that Vault is back, and let the token end. The next one, begun
// after a wait of ours, renews at once.
func (s *session) keep(ctx context.Context, l lease) {
	delays := loginDelays()
	for l.renewable && (l.ttl > 0 || l.unknown) {
		w := s.watch(ctx, l)
		if w.renewed {
			delays.Reset()
		}
		switch {
		case w.over || w.err != nil && w.err.invalid:
			return
		case w.err == nil && !s.static: // its normal end
			return
		case w.err == nil, w.err.stays():
			l = s.remaining()
		default:
			s.retried(w.err)
			if s.rest(ctx, min(max(delays.NextBackOff(), w.err.RetryAfter), s.left())) || ctx.Err() != nil || s.left() <= 0 {
				return
			}
			l = s.remaining()
			l.renewable = true
		}
	}
	s.outlive(ctx, l)
}

// stays reports whether a look-up or a renewal of the token failed for a reason that stays: Vault does not extend this token, the
// policy leaves renewals out, or what stands before Vault does not let them through.
func (f *failure) stays() bool {
	return f.Problem == provision.SecretDenied || f.foreign || f.unknown
}

// unknownGap is the time between two looks at a given token of which nobody says how long it lasts.
const unknownGap = 5 * time.Minute

// outlive waits with a token that can't be renewed, or never ends, until another one is needed, is asked
// for, or ctx ends. A third of its time is left for Vault to come back in, or for a given token to be looked
// at again: somebody else may have renewed it.
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

// warn tells once of each end of a given token.
func (s *session) warn(ctx context.Context, l lease) {
	s.mu.Lock()
	told := s.expires.Sub(s.warned).Abs() <= 2*time.Second // Vault tells whole seconds
	s.warned = s.expires
	s.mu.Unlock()
	if !told {
		s.log.WarnContext(ctx, "vault: VAULT_TOKEN ends and can't be renewed further; give the worker a new one or another VAULT_AUTH", "ttl", l.ttl)
	}
}

// watched is how a watch ended. With neither over nor err the token can't be extended any further.
type watched struct {
	renewed bool     // at least once
	over    bool     // a login is asked for, or the context has ended
	err     *failure // of the last renewal
}

// watch has a LifetimeWatcher renew the token until it stops doing so.
func (s *session) watch(ctx context.Context, l lease) watched {
	n := notes{denied: make(chan struct{}, 1)}
	token := s.api.Token()
	watcher, err := s.api.WithRequestCallbacks(func(*vaultapi.Request) { n.asked.Store(new(s.clock.Now())) }).
		WithResponseCallbacks(func(r *vaultapi.Response) { n.take(r, s.known.with(token), s.clock.Now()) }).
		NewLifetimeWatcher(&vaultapi.LifetimeWatcherInput{
			Secret: &vaultapi.Secret{Auth: &vaultapi.SecretAuth{
				ClientToken: token, LeaseDuration: int(l.ttl / time.Second), Renewable: true,
			}},
			RenewBehavior: vaultapi.RenewBehaviorErrorOnErrors,
		})
	if err != nil {
		return watched{err: s.notRenewed(ctx, n.verdict(err, s.known.with(token)))}
	}
	s.watchers.Go(watcher.Start)
	defer watcher.Stop()
	var w watched
	for {
		select {
		case r := <-watcher.RenewCh():
			w.renewed = s.renewed(ctx, r.Secret, *n.asked.Load())
		case err := <-watcher.DoneCh():
			select {
			case r := <-watcher.RenewCh(): // the last one, which left too little time
				w.renewed = s.renewed(ctx, r.Secret, *n.asked.Load())
			default:
			}
			if err != nil && !errors.Is(err, vaultapi.ErrLifetimeWatcherNotRenewable) {
				w.err = s.notRenewed(ctx, n.verdict(err, s.known.with(token)))
			}
			return w
		case <-n.denied: // which the watcher takes for a token that lives on without renewals
			w.err = s.notRenewed(ctx, n.last.Load())
			return w
		case <-s.wanted:
			w.over = true
			return w
		case <-ctx.Done():
			w.over = true
			return w
		}
	}
}

// notes are what a LifetimeWatcher doesn't tell of what it asks and is answered.
type notes struct {
	asked  atomic.Pointer[time.Time] // when the last request was made; nil if there was none
	last   atomic.Pointer[failure]   // of the last answer; nil if it was good or there was none
	denied chan struct{}             // holds one: the last answer was a refusal
}

const renewing = "renew the token"

func (n *notes) take(r *vaultapi.Response, secrets []string, now time.Time) {
	err := r.Error()
	if err == nil {
		n.last.Store(nil)
		return
	}
	f := classify(opRenew, renewing, err, secrets...)
	f.RetryAfter = retryAfter(r.Header, now)
	n.last.Store(f)
	if f.Problem == provision.SecretDenied {
		n.denied <- struct{}{} // room for the one: the watcher is not used after it
	}
}

// verdict is what a watcher's last error means.
func (n *notes) verdict(err error, secrets []string) *failure {
	if f := n.last.Load(); f != nil {
		return f
	}
	return classify(opRenew, renewing, err, secrets...)
}

// renewed notes a renewal.
func (s *session) renewed(ctx context.Context, answer *vaultapi.Secret, asked time.Time) bool {
	// Vault tells whole seconds; 0 is less than one here, not for ever. Of a given token it may be wrong.
	l := lease{ttl: max(time.Duration(answer.Auth.LeaseDuration)*time.Second, time.Second), asked: asked}
	if s.static && answer.Auth.LeaseDuration <= 0 {
		l = lease{unknown: true}
	}
	s.metrics.count(opRenew, nil)
	s.log.InfoContext(ctx, "vault: token renewed", "ttl", l.ttl, "ttl_unknown", l.unknown)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = nil
	s.setExpiry(l)
	return true
}

// notRenewed notes a failed renewal. A token that Vault knows but does not renew is as good as before.
func (s *session) notRenewed(ctx context.Context, err *failure) *failure {
	if ctx.Err() != nil {
		return err
	}
	s.metrics.count(opRenew, err)
	s.log.WarnContext(ctx, "vault: cannot renew the token", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !err.stays() || err.invalid {
		s.err = err
	}
	return err
}
