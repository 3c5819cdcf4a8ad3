package flow

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	maxTokens    = 4096             // accounts whose token is kept
	refreshPause = 10 * time.Second // after a refresh that failed while the old token was still good
)

// tokenKey tells accounts apart. It holds no secret.
type tokenKey struct {
	org, client, scopes string
	secret              [sha256.Size]byte // of all client secrets
}

func keyOf(cr provision.Credentials) tokenKey {
	var secrets []byte
	for _, secret := range cr.Secrets() {
		secrets = append(append(secrets, secret.Reveal()...), 0)
	}
	return tokenKey{org: cr.OrgID, client: cr.ClientID, scopes: cr.Scopes, secret: sha256.Sum256(secrets)}
}

type fetchFunc = func(context.Context, provision.Credentials) (bearer, *provision.CallError)

// tokens keeps bearer tokens until shortly before they expire, fetches each only once at a time, and
// fetches the next one while the present one is still good. A fetch belongs to nobody: it goes on if
// the caller that began it gives up.
type tokens struct {
	fetch fetchFunc

	ctx     context.Context // of all fetches; ended by close
	cancel  context.CancelFunc
	fetches sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	entries map[tokenKey]*tokenEntry
}

// tokenEntry is guarded by tokens.mu.
type tokenEntry struct {
	bearer           // zero if there is none
	good   int       // which of the client secrets gave a token last
	used   time.Time // when it was asked for last
	call   *tokenCall
	rest   time.Time // no refresh before that
}

// tokenCall is a fetch under way. Its other fields may be read once done is closed.
type tokenCall struct {
	done  chan struct{}
	token provision.Sensitive
	err   *provision.CallError
}

func newTokens(fetch fetchFunc) *tokens {
	t := &tokens{fetch: fetch, entries: make(map[tokenKey]*tokenEntry)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *tokens) close() {
	t.cancel()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.fetches.Wait()
}

// get returns a token that is good for some time to come. It waits for IMS if it has to, but not
// longer than ctx.
func (t *tokens) get(ctx context.Context, cr provision.Credentials) (provision.Sensitive, *provision.CallError) {
	have, call := t.lookup(ctx, cr)
	if call == nil {
		return have, nil
	}
	select {
	case <-call.done:
		return call.token, call.err
	case <-ctx.Done():
		return provision.Sensitive{}, &provision.CallError{
			Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: causeOf(ctx.Err()),
			Message: "IMS gave no token in time; nothing was sent to the Flow Service", Err: ctx.Err(),
		}
	}
}

// lookup returns a token, or else the fetch to wait for. It begins a fetch where one is due.
func (t *tokens) lookup(ctx context.Context, cr provision.Credentials) (provision.Sensitive, *tokenCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	e := t.entry(keyOf(cr), now)
	usable := !e.token.IsZero() && now.Before(e.expiresAt.Add(-e.margin()/4))
	fresh := usable && now.Before(e.expiresAt.Add(-e.margin()))
	call := e.call
	if call == nil && !fresh && !(usable && now.Before(e.rest)) {
		call = t.begin(ctx, e, cr)
	}
	if usable {
		return e.token, nil
	}
	return provision.Sensitive{}, call
}

// margin is how long before its end a token is renewed: it has to outlive the call it is used for.
func (b bearer) margin() time.Duration {
	return min(500*time.Second, b.expiresAt.Sub(b.got)/10)
}

// entry returns the entry of an account, and makes room for it where it is new.
func (t *tokens) entry(key tokenKey, now time.Time) *tokenEntry {
	e := t.entries[key]
	if e == nil {
		t.evict()
		e = &tokenEntry{}
		t.entries[key] = e
	}
	e.used = now
	return e
}

// evict makes room for one entry: that which was idle longest goes.
func (t *tokens) evict() {
	if len(t.entries) < maxTokens {
		return
	}
	var oldest tokenKey
	var used time.Time
	for k, e := range t.entries {
		if used.IsZero() || e.used.Before(used) {
			oldest, used = k, e.used
		}
	}
	delete(t.entries, oldest)
}

// begin starts a fetch for e. It is told what ctx carries, but does not end with it.
func (t *tokens) begin(ctx context.Context, e *tokenEntry, cr provision.Credentials) *tokenCall {
	call := &tokenCall{done: make(chan struct{})}
	e.call = call
	if t.closed {
		t.end(e, call, bearer{}, closedError())
		return call
	}
	first := e.good
	t.fetches.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(t.ctx, cancel)()
		b, err := t.fetch(ctx, from(cr, first))
		b.secret = (b.secret + first) % len(cr.Secrets())
		t.mu.Lock()
		defer t.mu.Unlock()
		t.end(e, call, b, err)
	})
	return call
}

// from returns cr with its client secrets in the order that begins with the one at first.
func from(cr provision.Credentials, first int) provision.Credentials {
	all := cr.Secrets()
	all = slices.Concat(all[first:], all[:first])
	cr.ClientSecret, cr.OtherSecrets = all[0], all[1:]
	return cr
}

// end concludes a fetch. A failed one leaves a token that is still good in its place.
func (t *tokens) end(e *tokenEntry, call *tokenCall, b bearer, err *provision.CallError) {
	e.call = nil
	if err == nil {
		e.bearer, e.good = b, b.secret
	} else {
		e.rest = time.Now().Add(refreshPause)
	}
	call.token, call.err = b.token, err
	close(call.done)
}

func closedError() *provision.CallError {
	return &provision.CallError{
		Verdict: provision.VerdictNotSent, Target: provision.TargetIMS, Cause: provision.CauseNetwork,
		Err: errors.New("the client is closed"),
	}
}

// forget drops that very token; a newer one stays.
func (t *tokens) forget(cr provision.Credentials, refused provision.Sensitive) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(cr)]; e != nil && e.token.Equal(refused) {
		e.bearer = bearer{}
	}
}
