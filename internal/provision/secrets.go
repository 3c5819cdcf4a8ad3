package provision

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// prepare gets what a POST needs: the tenant's credentials and the secret that the request refers to.
func (t *task) prepare(ctx context.Context) step {
	now := t.hub.Clock.Now()
	if !now.Before(t.rec.Deadline) {
		return t.lapse
	}
	if wait := t.rec.NotBefore.Sub(now); wait > 0 {
		return t.pause(ctx, wait, t.prepare)
	}
	if err := t.readSecrets(ctx); err != nil {
		return t.secretTrouble(ctx, err, t.prepare)
	}
	if t.wrongDomain() {
		if !t.pastCache { // its owner may have changed it since
			t.fresh = true
			return t.prepare
		}
		said := "names another host than the request's auth.params.domain; send it where its owner said, or have its owner change the field"
		if ownerHost(t.secret.Domain) == "" {
			said = "is not https://<host>, so it allows no host; have its owner write one host there, without another scheme, port, path, list, pattern or dot at the end"
		}
		t.fail(Fail(ReasonSecretForbidden, "the secret's own field \"domain\" "+said))
		return t.conclude
	}
	if err := t.hub.Connections.Authorize(t.call(ctx), t.account()); err != nil {
		return t.unauthorized(ctx, err)
	}
	return t.post
}

// wrongDomain reports whether the secret says itself that it is for another host than the request's.
func (t *task) wrongDomain() bool {
	d := t.secret.Domain
	return d != "" && ownerHost(d) != t.d.Request.Data.Auth.Params.Domain
}

// unauthorized goes on after the tenant got no token: nothing was sent.
func (t *task) unauthorized(ctx context.Context, err error) step {
	ce := asCallError(err)
	switch ce.Verdict {
	case VerdictDenied, VerdictRejected, VerdictUnauthorized:
		t.rec.note(Attempt{At: t.hub.Clock.Now(), Step: string(ce.Target), Result: ce.Verdict.String(), Detail: text(ce)})
		if ce.passes() {
			t.survived()
			return t.lasting(ctx, ce.Target, flowFailure(ReasonFlowDenied, ce), t.prepare)
		}
		t.rec.Refused = flowFailure(ReasonFlowDenied, ce)
		t.useSecrets()
		return t.reconsider
	}
	t.rec.LastFail = flowFailure(ReasonFlowUnavailable, ce)
	return t.hindered(ctx, ce.Target, err, t.prepare)
}

// readSecrets fills t.creds and t.secret. The next reading is from the cache again.
func (t *task) readSecrets(ctx context.Context) error {
	if err := t.readCredentials(ctx); err != nil {
		return err
	}
	err := t.fromVault(ctx, func() (cached bool, err error) {
		t.secret, err = t.hub.Secrets.Resolve(t.call(ctx), t.rec.Key.Tenant, t.d.Request.Data.Auth.Params.AccessToken, t.pastCache)
		return t.secret.Cached, err
	})
	if err == nil {
		t.fresh, t.rec.Missing = false, nil
	}
	return err
}

// readCredentials fills t.creds.
func (t *task) readCredentials(ctx context.Context) error {
	err := t.fromVault(ctx, func() (cached bool, err error) {
		t.creds, err = t.hub.Secrets.Credentials(t.call(ctx), t.rec.Key.Tenant, t.pastCache)
		return t.creds.Cached, err
	})
	var se *SecretError
	if errors.As(err, &se) && se.Problem == SecretMissing {
		return &tenantError{se}
	}
	if err == nil && t.rec.Missing != nil && t.rec.Missing.Reason == ReasonTenantUnknown {
		t.rec.Missing = nil
	}
	return err
}

// fromVault calls read unless the gate keeps callers from Vault, and tells the gate how it went. What was
// missing before is read past the cache.
func (t *task) fromVault(ctx context.Context, read func() (cached bool, err error)) (err error) {
	t.readAt, t.pastCache = t.hub.Clock.Now(), t.fresh || t.rec.Missing != nil
	closed := t.through(TargetVault, func() (end CallEnd) {
		var cached bool
		cached, err = read()
		return vaultEnd(ctx, cached, err)
	})
	if closed != nil {
		return closed
	}
	return err
}

// vaultEnd says what a read showed of Vault: to refuse the worker is no service.
func vaultEnd(ctx context.Context, cached bool, err error) CallEnd {
	var se *SecretError
	missing := errors.As(err, &se) && se.Problem == SecretMissing
	switch {
	case cached || missing && se.Cached:
		return CallSpared
	case err == nil || missing:
		return CallServed
	case ctx.Err() != nil:
		return CallVoid
	}
	return CallFailed
}

// tenantError is a SecretError about the tenant's Adobe credentials.
type tenantError struct{ *SecretError }

// Unwrap returns the SecretError itself, so that errors.As finds it.
func (e *tenantError) Unwrap() error { return e.SecretError }

// secretTrouble goes on after a secret could not be read.
func (t *task) secretTrouble(ctx context.Context, err error, again step) step {
	if missing := missingSecret(err); missing != nil {
		return t.secretMissing(ctx, missing, again, func() step {
			t.fail(missing)
			return t.conclude
		})
	}
	t.rec.LastFail = Fail(ReasonVaultUnavailable, "Vault did not serve the worker: "+text(err))
	return t.hindered(ctx, TargetVault, err, again)
}

// hindered waits after a target was in the way, without any POST having been sent, then tries again.
func (t *task) hindered(ctx context.Context, target Target, err error, again step) step {
	cause, atLeast := hindrance(err)
	t.rec.note(Attempt{At: t.hub.Clock.Now(), Step: string(target), Result: string(cause), Detail: text(err)})
	t.survived()
	t.rec.RefusedSince = time.Time{}
	t.log(slog.LevelDebug, "hindered", slog.String("target", string(target)), slog.String("cause", string(cause)), slog.Any("error", err))
	if errors.Is(err, ErrCircuitOpen) {
		return t.handBack(ctx, atLeast) // an outage isn't waited for in a slot
	}
	t.hub.Observer.Retried(target, cause)
	return t.pause(ctx, atLeast, again)
}

// hindrance returns why a call must be repeated, and how long its target asked to be left alone.
func hindrance(err error) (Cause, time.Duration) {
	var se *SecretError
	var ce *CallError
	switch {
	case errors.As(err, &ce):
		return orNetwork(ce.Cause), ce.RetryAfter
	case errors.As(err, &se):
		return orNetwork(se.Cause), se.RetryAfter
	}
	return CauseNetwork, 0
}

func orNetwork(c Cause) Cause {
	if c == "" {
		return CauseNetwork
	}
	return c
}

// reconsider reads the secrets past the cache after a refusal: a newer version gets one more POST.
func (t *task) reconsider(ctx context.Context) step {
	if t.rec.Reread {
		t.fail(t.rec.Refused)
		return t.conclude
	}
	if !t.hub.Clock.Now().Before(t.rec.Deadline) {
		t.fail(t.rec.Refused)
		return t.conclude
	}
	creds, secret := t.creds, t.secret
	t.fresh = true
	if err := t.readSecrets(ctx); err != nil {
		missing := missingSecret(err)
		if missing == nil {
			return t.hindered(ctx, TargetVault, err, t.reconsider)
		}
		return t.secretMissing(ctx, missing, t.reconsider, func() step {
			t.fail(t.rec.Refused)
			return t.conclude
		})
	}
	creds.Version, secret.Version = t.rec.Secrets[secretAdobe], t.rec.Secrets[secretToken]
	if !otherCredentials(creds, t.creds) && !otherVersion(secret.Version, t.secret.Version, secret.Value, t.secret.Value) {
		t.fail(t.rec.Refused)
		return t.conclude
	}
	t.rec.Reread, t.rec.Refused = true, nil
	return t.prepare
}

// otherCredentials reports whether the tenant's credentials are others than those that were used.
func otherCredentials(used, now Credentials) bool {
	return used.Version != now.Version || now.Version == 0 &&
		!(slices.EqualFunc(used.Secrets(), now.Secrets(), Sensitive.Equal) && used.AccessToken.Equal(now.AccessToken))
}

// otherVersion reports whether a secret is another than the one that was used. Where the store has no
// versions, its value tells, as far as this delivery knows the one that was used.
func otherVersion(used, now int, usedValue, nowValue Sensitive) bool {
	return used != now || now == 0 && !usedValue.Equal(nowValue)
}
