package provision

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Missing says since when a secret has been missing. A store may lag behind its writer, as a standby server
// does, so that is believed only once it has been so for Config.SecretGrace.
type Missing struct {
	Reason Reason    `json:"reason"` // what it ends the request with if it stays so
	Since  time.Time `json:"since"`  // when a read past the cache said so first
	By     string    `json:"by"`     // whose clock Since is from
}

// missingSecret returns the failure that a secret's absence amounts to, or nil where err says nothing of the
// kind.
func missingSecret(err error) *Failure {
	if te, ok := errors.AsType[*tenantError](err); ok {
		return Fail(ReasonTenantUnknown, "the tenant's Adobe credentials cannot be used: "+text(te.Err)+
			"; write what Adobe's console exports, or orgId with clientId and clientSecret, or with accessToken and apiKey, to its secret \"adobe\"")
	}
	if se, ok := errors.AsType[*SecretError](err); ok && se.Problem == SecretMissing {
		return Fail(ReasonSecretNotFound, "the secret that auth.params.accessToken refers to cannot be used: "+text(se.Err))
	}
	return nil
}

// secretMissing goes on after a secret was found missing. It concludes once two reads past the cache that
// lie SecretGrace apart have said so, the later one just now; until then the message rests, outside a slot.
// Again is the step that reads it once more.
func (t *task) secretMissing(ctx context.Context, f *Failure, again step, conclude func() step) step {
	if !t.pastCache {
		t.fresh = true
		return again
	}
	now := t.hub.Clock.Now()
	if m := t.rec.Missing; m == nil || m.Reason != f.Reason {
		t.rec.Missing = &Missing{Reason: f.Reason, Since: now, By: t.hub.Instance}
	}
	left := t.believedAt().Sub(t.readAt)
	if left <= 0 || t.hub.SecretGrace == 0 {
		return conclude()
	}
	t.survived()
	t.log(slog.LevelDebug, "a secret is missing, which is not believed yet", slog.Duration("grace_left", left), slog.String("detail", f.Message))
	t.rec.note(Attempt{At: now, Step: "secrets", Result: "missing", Detail: f.Message})
	t.rec.LastFail = f
	delay := min(left, t.hub.SecretGrace+ClockSkew)
	delay += t.hub.jitter(delay / 4) // those that wait for the same one come back spread out
	if until := t.wakeBy(now); until > 0 {
		delay = min(delay, until)
	}
	return t.rest(ctx, min(delay, t.hub.RedeliveryDelayMax), whyMissing)
}

// believedAt returns from when on a read that finds the secret missing is believed. Another worker's clock
// may be behind ours.
func (t *task) believedAt() time.Time {
	at := t.rec.Missing.Since.Add(t.hub.SecretGrace)
	if t.rec.Missing.By != t.hub.Instance {
		at = at.Add(ClockSkew)
	}
	return at
}

// notBelieved returns f, of a missing secret, as it ends a request whose deadline comes before the end of the
// grace: the secret may be on its way.
func (t *task) notBelieved(f *Failure) *Failure {
	early := *f
	early.Retryable = true
	early.Message += "; the deadline came before it had been missing for WORKER_SECRET_GRACE (" + t.hub.SecretGrace.String() + "), so it may be there by now: retry it then"
	return &early
}

// whyMissing is the Outcome.Why of a message that waits for a secret.
const whyMissing = "a secret is missing, and may yet appear"
