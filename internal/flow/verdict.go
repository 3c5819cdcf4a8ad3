package flow

import (
	"net/http"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// statusVerdicts gives every HTTP status its verdict on a POST that it answered. A status is a
// definite no only where its definition says that the request was not carried out; what proxies and
// gateways say for others, what nobody defined, and what can follow a creation is unknown.
var statusVerdicts = [...]struct {
	from, to int
	verdict  provision.Verdict
}{
	{100, 199, provision.VerdictUnknown},  // no final answer
	{200, 299, provision.VerdictUnknown},  // created, but the answer names no connection
	{300, 399, provision.VerdictUnknown},  // 303 is what some services say after a creation
	{400, 400, provision.VerdictRejected}, // refined by codeVerdict
	{401, 401, provision.VerdictUnauthorized},
	{402, 403, provision.VerdictDenied},
	{404, 405, provision.VerdictRejected},
	{406, 406, provision.VerdictUnknown}, // created, but the answer can't be shown as we want it
	{407, 407, provision.VerdictDenied},  // by a proxy, instead of passing it on
	{408, 408, provision.VerdictUnknown}, // the Flow Service uses it for its own time-outs (1006-408)
	{409, 409, provision.VerdictUnknown}, // documented nowhere; a conflict may be with our own POST
	{410, 415, provision.VerdictRejected},
	{416, 416, provision.VerdictRejected},
	{417, 417, provision.VerdictRejected},
	{418, 421, provision.VerdictUnknown},
	{422, 422, provision.VerdictRejected},
	{423, 425, provision.VerdictUnknown},
	{426, 426, provision.VerdictRejected},
	{427, 427, provision.VerdictUnknown},
	{428, 428, provision.VerdictRejected},
	{429, 429, provision.VerdictThrottled},
	{430, 430, provision.VerdictUnknown},
	{431, 431, provision.VerdictRejected},
	{432, 450, provision.VerdictUnknown},
	{451, 451, provision.VerdictDenied},
	{452, 499, provision.VerdictUnknown}, // 499: a gateway lost its patience or its client
	{500, 599, provision.VerdictUnknown}, // also 501, 502, 503: a gateway may say them of a late answer
}

// statusVerdict returns the verdict of a status; of numbers that are no HTTP status, unknown.
func statusVerdict(status int) provision.Verdict {
	for _, v := range statusVerdicts {
		if v.from <= status && status <= v.to {
			return v.verdict
		}
	}
	return provision.VerdictUnknown
}

// codeVerdict refines the verdict of a 400 by the Flow Service's own code.
func codeVerdict(p problem) provision.Verdict {
	switch p.number {
	case codeNoToken, codeBadToken:
		return provision.VerdictUnauthorized
	case codeProvider:
		if clusterAsleep.MatchString(p.message) {
			return provision.VerdictNotReady
		}
	}
	return provision.VerdictRejected
}

// verdictCauses says what to call the repetition that a verdict leads to. Final refusals have none.
var verdictCauses = map[provision.Verdict]provision.Cause{
	provision.VerdictUnknown:      provision.CauseStatus,
	provision.VerdictThrottled:    provision.CauseThrottled,
	provision.VerdictNotReady:     provision.CauseStatus,
	provision.VerdictUnauthorized: provision.CauseStatus,
}

// judge turns an answer that is no success into an error, without any of the secrets of its call.
func judge(a answer, s scrubber) *provision.CallError {
	p := readProblem(a.header, a.body, s)
	v := statusVerdict(a.status)
	if a.status == http.StatusBadRequest {
		v = codeVerdict(p)
	}
	return &provision.CallError{
		Verdict: v, Target: provision.TargetFlow, Cause: verdictCauses[v],
		Status: a.status, Code: p.code, Message: advise(a.status, p),
		RequestID: p.requestID, RetryAfter: p.retryAfter,
	}
}
