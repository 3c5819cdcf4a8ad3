package flow

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

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

// exists recognizes, in a refusal's text or code, that such a connection is there already.
var exists = regexp.MustCompile(`(?i)\balready[ _-](exist|in[ _-]use|being used|used|taken|present|registered|defined|created|associated)|\bexists[ _-]already\b|\bduplicate|\b(not|must be|isn't|non)[ _-]unique\b|\bunique(ness)?[ _-](constraint|violation)`)

// believed refines the verdict of an answer by whose it is: a verdict that ends a request counts only if the
// Flow Service, or Adobe's gateway before it, said so itself. Of another's answer nobody knows what it stands
// for: it may have come after the Flow Service had the POST.
func believed(a answer, p problem) (v provision.Verdict, passing, taken bool) {
	v, own := statusVerdict(a.status), originOf(a)
	if a.status == http.StatusBadRequest && own == fromService {
		v = codeVerdict(p)
	}
	brief := own == fromSomebody || own == fromOlder
	taken = (own == fromService || brief) && exists.MatchString(p.message+" "+p.code)
	switch v {
	case provision.VerdictUnknown:
		return v, false, taken && a.status == http.StatusConflict
	case provision.VerdictDenied, provision.VerdictRejected, provision.VerdictUnauthorized:
	default:
		return v, false, false
	}
	switch {
	case taken && v == provision.VerdictRejected:
		return provision.VerdictUnknown, false, true
	case v == provision.VerdictUnauthorized && (own != fromStranger || json.Valid(a.body)),
		a.status == http.StatusForbidden && (brief || own == fromNobody):
		return v, true, false
	case own == fromService, brief && slices.Contains(briefly, a.status), own == fromOlder && a.status == http.StatusNotFound:
		return v, false, false
	}
	return provision.VerdictUnknown, false, false
}

// briefly are the statuses of which the Flow Service is known to say no more than {message} or {errorMessage};
// of 404, {errorMessage}. Gateways of every make say {message} of others, as of an address that they don't know.
var briefly = []int{http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}

// judge turns an answer that is no success into an error, without any of the secrets of its call.
func judge(a answer, s scrubber) *provision.CallError {
	p := readProblem(a.header, a.body, s)
	v, passing, taken := believed(a, p)
	e := &provision.CallError{
		Verdict: v, Target: provision.TargetFlow, Cause: verdictCauses[v],
		Status: a.status, Code: p.code, Message: advise(a.status, p),
		RequestID: p.requestID, RetryAfter: p.retryAfter, Passing: passing, Exists: taken,
	}
	if v == provision.VerdictUnknown && statusVerdict(a.status) != v && !taken {
		e.Message = strings.TrimRight(firstOf(p.message, http.StatusText(a.status)), ". ") + "; this is no answer of the Flow Service itself: look for what stands in its way, such as a proxy or a gateway"
	}
	return e
}
