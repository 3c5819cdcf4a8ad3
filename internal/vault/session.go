package vault

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// session holds the worker's token. Its run method alone gets and renews tokens (renewal.go); reads use them, wait
// for them and ask for new ones.
type session struct {
	api       *vaultapi.Client
	login     login
	static    bool   // the token is given, or added by an agent: logging in again gives no other, and reads show whether it works
	tokenFile string // where a given token is kept; empty where it doesn't change
	timeout   time.Duration
	log       *slog.Logger
	metrics   metrics
	onRetry   func(provision.Target, provision.Cause)
	known     *keyring // what no error may hold

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
}

// usable reports whether there is a token that has not ended. A given one is used until a read is refused,
// whatever is said of its end: somebody else may renew it. The caller holds mu.
func (s *session) usable() bool {
	return s.held && (s.static || s.expires.IsZero() || time.Now().Before(s.expires))
}

// ask wakes run to log in.
func (s *session) ask() {
	select {
	case s.wanted <- struct{}{}:
	default: // asked for already
	}
}

// token waits until there is a token, for at most one attempt to get one, and returns its number.
func (s *session) token(ctx context.Context) (uint64, *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usable() {
		return s.gen, nil
	}
	if f := s.leftAlone(); f != nil {
		return 0, f
	}
	s.ask()
	f := s.await(ctx)
	if f != nil && !(s.static && s.held) { // the read shows whether a given token works
		return 0, f
	}
	return s.gen, nil
}

// another waits for a token other than the one of number gen, with which Vault has refused something. Where
// none is to be had so soon after the last one, it returns gen. For a token that Vault calls invalid there is
// always another one, if only after loginGap; one that only lacks rights may well lack them for good.
func (s *session) another(ctx context.Context, gen uint64, invalid bool) (uint64, *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen || !s.forcing && !invalid && time.Since(s.forced) < forcedGap {
		return s.gen, nil
	}
	if f := s.leftAlone(); f != nil {
		return 0, f
	}
	if !s.forcing { // else others were refused too, and one login is enough for all
		s.forced, s.forcing = time.Now(), true
		s.ask()
	}
	if f := s.await(ctx); f != nil {
		return 0, f
	}
	return s.gen, nil
}

// leftAlone returns the failure of the last login while no other one may be tried: the credential was refused, or
// Vault wants to be left alone for longer than a read waits. Else it returns nil. The caller holds mu.
func (s *session) leftAlone() *failure {
	if s.refused != nil {
		return unquick(s.refused)
	}
	left := time.Until(s.notBefore)
	if s.err == nil || left <= longestAfter {
		return nil
	}
	f := *s.err.SecretError
	f.RetryAfter = left
	return &failure{SecretError: &f, login: true}
}

// await waits for the end of an attempt to log in. The caller holds mu, which is free meanwhile.
func (s *session) await(ctx context.Context) *failure {
	concluded := s.concluded
	s.mu.Unlock()
	var late error
	select {
	case <-concluded:
	case <-ctx.Done():
		late = ctx.Err()
	}
	s.mu.Lock()
	err := cmp.Or(s.refused, s.err) // the old token may have been renewed since it was refused
	switch {
	case late != nil && s.err != nil:
		return unavailable(provision.CauseTimeout, "no Vault token: %w; the last attempt: %w", late, s.err.Err)
	case late != nil:
		return unavailable(provision.CauseTimeout, "no Vault token: %w", late)
	case err != nil:
		return unquick(err)
	}
	return nil
}

// unquick returns f as something that is not worth another try at once: run tries already.
func unquick(f *failure) *failure { return &failure{SecretError: f.SecretError, login: true} }

// hasRead notes how a read with the token of number gen went. For a given token that decides: one that was served
// is good, whatever was said of the token; one that was refused as invalid is not.
func (s *session) hasRead(gen uint64, f *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.static || s.gen != gen:
	case f == nil && s.held:
		s.err = nil
	case f != nil && f.invalid && s.err == nil:
		s.err = f
	}
}

// conclude puts the outcome of an attempt to log in to use and wakes who waits for it.
func (s *session) conclude(token string, l lease, err *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.refused, s.forcing, s.notBefore = err, nil, false, time.Time{}
	if err != nil && err.RetryAfter > 0 {
		s.notBefore = time.Now().Add(min(err.RetryAfter, loginAfterMax))
	}
	switch {
	case err == nil:
		s.hold(token, l)
		s.renewable = l.renewable
		s.drainWanted()
	case err.refusal != nil:
		s.refused = err
		s.drainWanted() // nobody asks in vain
	case s.static && token != "" && (!s.held || token != s.api.Token()):
		s.hold(token, lease{unknown: true}) // whatever was said of it
	}
	close(s.concluded)
	s.concluded = make(chan struct{})
}

// drainWanted forgets what was asked for before the attempt ended.
func (s *session) drainWanted() {
	select {
	case <-s.wanted:
	default:
	}
}

// hold puts a token to use. The caller holds mu.
func (s *session) hold(token string, l lease) {
	s.api.SetToken(token)
	s.known.add(token)
	s.gen++
	s.held = true
	s.setExpiry(l)
}

// setExpiry notes when the token ends at the earliest. The caller holds mu.
func (s *session) setExpiry(l lease) {
	s.expires, s.unknown = time.Time{}, l.unknown
	if l.ttl > 0 {
		s.expires = l.asked.Add(l.ttl)
	}
}

// left is how long the token lasts; very long for one that never ends.
func (s *session) left() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expires.IsZero() {
		return math.MaxInt64
	}
	return time.Until(s.expires)
}

// remaining returns what is left of the token's lease. It is renewable if the token was when it was new, has not
// ended, and ends at all.
func (s *session) remaining() lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expires.IsZero() {
		return lease{unknown: s.unknown}
	}
	left := time.Until(s.expires)
	return lease{ttl: max(left, time.Second), renewable: s.renewable && s.usable() && left > 0}
}

// ready returns nil if there is a token, the latest attempt to get or renew one went well, and none waits
// for another credential.
func (s *session) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch err := cmp.Or(s.refused, s.err); {
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
	return max(0, time.Until(s.expires).Seconds())
}

func (s *session) retried(err *failure) {
	if err.Cause != "" {
		s.onRetry(provision.TargetVault, err.Cause)
	}
}
