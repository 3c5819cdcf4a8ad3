package provision

import (
	"errors"
	"net/http"
	"time"
)

// Gate says whether a target is worth calling just now. It is safe for concurrent use.
type Gate interface {
	// Allow returns a function that must be called exactly once, whatever becomes of the call, with
	// what it showed of the target, or nil and how long to leave the target alone. The tenant is on
	// whose behalf the call is made: what fails for one only isn't down.
	Allow(t Target, tenant string) (done func(CallEnd), wait time.Duration)
}

// CallEnd says what an allowed call showed of its target's health. The zero value is the careful one.
type CallEnd int

// The ends of a call. Only CallServed closes a circuit that is open, only CallFailed opens one or keeps
// it open.
const (
	CallVoid   CallEnd = iota // nothing: the target was not asked, or the caller left before its answer
	CallServed                // it did its work; refusing a request is work too
	CallFailed                // it failed, or did not answer in time
	CallSpared                // the work was done without asking it, as from a cache
)

// openGate lets every call through.
type openGate struct{}

// Allow implements Gate.
func (openGate) Allow(Target, string) (func(CallEnd), time.Duration) { return func(CallEnd) {}, 0 }

// through makes a call unless the gate keeps callers from its target, which is the error then. The call
// says what it showed of the target; one that panics shows nothing.
func (t *task) through(target Target, call func() CallEnd) error {
	done, wait := t.hub.Gate.Allow(target, t.rec.Key.Tenant)
	if done == nil {
		return closedError(target, wait)
	}
	end := CallVoid
	defer func() { done(end) }()
	end = call()
	return nil
}

// closedError says that the gate keeps callers from a target.
func closedError(target Target, wait time.Duration) error {
	return &CallError{Verdict: VerdictNotSent, Target: target, Cause: CauseNetwork, RetryAfter: wait, Err: ErrCircuitOpen}
}

// flowEnd says what a call with this error showed of the Flow Service. Trouble with a token is IMS's,
// and what the worker itself refused to send nobody's.
func flowEnd(err error) CallEnd {
	var ce *CallError
	switch {
	case err == nil:
		return CallServed
	case !errors.As(err, &ce):
		return CallFailed
	case ce.Target != TargetFlow || errors.Is(err, ErrNotAsked):
		return CallVoid
	case ce.Verdict == VerdictUnknown || ce.Verdict == VerdictNotSent:
		if ce.Status == http.StatusConflict || ce.Exists {
			return CallServed
		}
		return CallFailed
	case ce.Status == 0:
		return CallVoid // a refusal that nobody sent
	}
	return CallServed
}

// targetOf says whose trouble err is.
func targetOf(err error) Target {
	var ce *CallError
	switch {
	case isSecretError(err):
		return TargetVault
	case errors.As(err, &ce):
		return ce.Target
	}
	return TargetFlow
}
