package vault

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// The quick retries. Whatever lasts longer is the hub's to wait for.
const (
	tries         = 3
	firstDelay    = 100 * time.Millisecond
	longestDelay  = time.Second
	longestAfter  = 2 * time.Second // a Retry-After beyond this ends the quick retries, for the hub to wait
	noHandlerText = "no handler for route"
)

// answer is what Vault said to a GET: 200, or a 404 of its own.
type answer struct {
	found  bool             // the status is 200
	secret *vaultapi.Secret // nil where the body had nothing but errors
}

// get reads path, with a few quick retries. With relogin a refusal leads to one new login.
func (s *session) get(ctx context.Context, path string, query map[string][]string, relogin bool) (answer, *failure) {
	delays := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstDelay), backoff.WithMultiplier(3),
		backoff.WithMaxInterval(longestDelay), backoff.WithMaxElapsedTime(0))
	for try := 1; ; try++ {
		a, err := s.getAs(ctx, path, query, relogin)
		if err == nil || !err.quick || try == tries || err.RetryAfter > longestAfter || ctx.Err() != nil {
			return a, err
		}
		s.retried(err)
		if s.clock.Sleep(ctx, max(delays.NextBackOff(), err.RetryAfter)) != nil {
			return answer{}, err
		}
	}
}

// getAs reads path with the token of now, and if that is refused and relogin says so, once more with
// another one.
func (s *session) getAs(ctx context.Context, path string, query map[string][]string, relogin bool) (answer, *failure) {
	gen, err := s.token(ctx)
	if err != nil {
		return answer{}, err
	}
	a, refused := s.getOnce(ctx, gen, path, query)
	if refused == nil || refused.Problem != provision.SecretDenied || !relogin {
		return a, refused
	}
	newer, err := s.another(ctx, gen, refused.invalid)
	if err != nil {
		return answer{}, err
	}
	if newer == gen {
		return answer{}, refused
	}
	return s.getOnce(ctx, newer, path, query)
}

// getOnce sends one GET with the token of number gen, and counts it.
func (s *session) getOnce(ctx context.Context, gen uint64, path string, query map[string][]string) (answer, *failure) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	a, err := s.exchange(ctx, path, query)
	counted := err
	if err == nil && !a.found {
		counted = missing("nothing at %s", path)
	}
	s.metrics.count(opRead, counted)
	if err == nil {
		s.worked(gen)
	} else {
		s.failed(gen, err)
	}
	return a, err
}

func (s *session) exchange(ctx context.Context, path string, query map[string][]string) (answer, *failure) {
	doing := "read " + path
	resp, err := s.api.Logical().ReadRawWithDataWithContext(ctx, path, query)
	if resp == nil || resp.Body == nil {
		return answer{}, classify(opRead, doing, err, s.known.with(s.api.Token())...)
	}
	defer resp.Body.Close()
	if err != nil && !nothingThere(err) {
		f := classify(opRead, doing, err, s.known.with(s.api.Token())...)
		f.RetryAfter = retryAfter(resp.Header, s.clock.Now())
		return answer{}, f
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		return answer{}, unavailable(provision.CauseStatus, "%s: HTTP %d is no answer of Vault's", doing, resp.StatusCode)
	}
	secret, err := vaultapi.ParseSecret(resp.Body)
	if err != nil {
		// The text of err may quote the body.
		f := unavailable(networkCause(err), "%s: the answer is cut off, too large or not Vault's", doing)
		f.quick = true
		return answer{}, f
	}
	return answer{found: resp.StatusCode == http.StatusOK, secret: secret}, nil
}

// nothingThere reports whether err is Vault's word that a path holds nothing: a 404 without a reason.
// One with a reason, such as a missing engine or namespace, or a proxy's, says nothing about the secret.
func nothingThere(err error) bool {
	var re *vaultapi.ResponseError
	return errors.As(err, &re) && re.StatusCode == http.StatusNotFound && !re.RawError && len(re.Errors) == 0
}

// noEngine reports whether Vault says that no engine is mounted at the path.
func noEngine(re *vaultapi.ResponseError) bool {
	return slices.ContainsFunc(re.Errors, func(m string) bool { return strings.Contains(m, noHandlerText) })
}
