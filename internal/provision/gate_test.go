package provision

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// listeningGate lets every call through and takes down what each showed of its target.
type listeningGate struct{ heard map[Target][]CallEnd }

func (g listeningGate) Allow(t Target, _ string) (func(CallEnd), time.Duration) {
	return func(end CallEnd) { g.heard[t] = append(g.heard[t], end) }, 0
}

// unwritableLedger can be read, but not written.
type unwritableLedger struct{ *memLedger }

func (unwritableLedger) Store(context.Context, Key, Record, uint64) (uint64, error) {
	return 0, errors.New("no responders")
}

// scriptedSecrets answers with its fields.
type scriptedSecrets struct {
	creds  Credentials
	secret Secret
	err    error
}

func (s scriptedSecrets) Credentials(context.Context, string, bool) (Credentials, error) {
	return s.creds, s.err
}

func (s scriptedSecrets) Resolve(context.Context, string, SecretRef, bool) (Secret, error) {
	return s.secret, s.err
}

// TestGateHearsWhatAPostShowed: who asked nothing must not close a circuit, nor keep it open.
func TestGateHearsWhatAPostShowed(t *testing.T) {
	t.Parallel()
	fails := func(err error) func(*Config) {
		return func(c *Config) {
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error { return err }}
		}
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   CallEnd
	}{
		"made":                {func(*Config) {}, CallServed},
		"refused":             {fails(&CallError{Verdict: VerdictRejected, Target: TargetFlow, Status: 400}), CallServed},
		"throttled":           {fails(&CallError{Verdict: VerdictThrottled, Target: TargetFlow, Status: 429}), CallServed},
		"conflict":            {fails(&CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 409}), CallServed},
		"down":                {fails(&CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 503}), CallFailed},
		"no connection":       {fails(&CallError{Verdict: VerdictNotSent, Target: TargetFlow, Err: errInjected}), CallFailed},
		"of an unknown kind":  {fails(errInjected), CallFailed},
		"ledger fails":        {func(c *Config) { c.Ledger = unwritableLedger{newMemLedger()} }, CallVoid},
		"no token":            {fails(&CallError{Verdict: VerdictNotSent, Target: TargetIMS, Status: 500}), CallVoid},
		"token denied":        {fails(&CallError{Verdict: VerdictDenied, Target: TargetIMS, Status: 401}), CallVoid},
		"not to be sent":      {fails(&CallError{Verdict: VerdictRejected, Target: TargetFlow}), CallVoid},
		"too late to be sent": {fails(&CallError{Verdict: VerdictNotSent, Target: TargetFlow, Err: ErrNotAsked}), CallVoid},
		"panic": {func(c *Config) {
			c.Connections = scriptedFlow{create: func(context.Context, time.Time) error { panic("bug") }}
		}, CallVoid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				gate := listeningGate{heard: map[Target][]CallEnd{}}
				h := newTestHub(t, func(c *Config) { c.Gate = gate; tc.change(c) })
				h.Handle(t.Context(), delivery())
				if heard := gate.heard[TargetFlow]; len(heard) == 0 || heard[0] != tc.want {
					t.Errorf("heard %v, want %v first", heard, tc.want)
				}
			})
		})
	}
}

// TestGateHearsNothingOfALookUpThatWasCut: it is the worker that ends, not the target.
func TestGateHearsNothingOfALookUpThatWasCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		gate := listeningGate{heard: map[Target][]CallEnd{}}
		h := newTestHub(t, func(c *Config) {
			c.Gate = gate
			c.Connections = scriptedFlow{find: func() ([]Found, error) {
				end()
				return nil, &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseNetwork, Err: ctx.Err()}
			}}
		})
		d := delivery()
		d.Delivered = 2 // so it is looked up first
		h.Handle(ctx, d)
		if diff := cmp.Diff([]CallEnd{CallVoid}, gate.heard[TargetFlow]); diff != "" {
			t.Errorf("heard (-want +got):\n%s", diff)
		}
	})
}

func TestGateHearsWhatAReadShowed(t *testing.T) {
	t.Parallel()
	fails := func(p SecretProblem, cached bool) scriptedSecrets {
		return scriptedSecrets{err: &SecretError{Problem: p, Cached: cached, Err: errInjected}}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tc := range map[string]struct {
		ctx  context.Context
		from scriptedSecrets
		want CallEnd
	}{
		"read":               {t.Context(), scriptedSecrets{}, CallServed},
		"from the cache":     {t.Context(), scriptedSecrets{creds: Credentials{Cached: true}}, CallSpared},
		"missing":            {t.Context(), fails(SecretMissing, false), CallServed},
		"missing, cached":    {t.Context(), fails(SecretMissing, true), CallSpared},
		"down":               {t.Context(), fails(SecretUnavailable, false), CallFailed},
		"denied":             {t.Context(), fails(SecretDenied, false), CallFailed},
		"of an unknown kind": {t.Context(), scriptedSecrets{err: errInjected}, CallFailed},
		"the worker ended":   {ended, fails(SecretUnavailable, false), CallVoid},
	} {
		gate := listeningGate{heard: map[Target][]CallEnd{}}
		h := newTestHub(t, func(c *Config) { c.Gate, c.Secrets = gate, tc.from })
		d := delivery()
		task := task{hub: h, situation: situation{cfg: &h.Config, d: &d}}
		_ = task.readCredentials(tc.ctx)
		if diff := cmp.Diff([]CallEnd{tc.want}, gate.heard[TargetVault]); diff != "" {
			t.Errorf("%s: heard (-want +got):\n%s", name, diff)
		}
	}
}
