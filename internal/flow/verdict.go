package flow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
	{400, 400, provision.VerdictRejected}, // refined by the code, in believed
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
	v, kind := statusVerdict(a.status), formOf(a)
	if a.status == http.StatusBadRequest && kind == formDocumented { // its own codes say more
		switch {
		case p.number == codeNoToken, p.number == codeBadToken:
			v = provision.VerdictUnauthorized
		case p.number == codeProvider && clusterAsleep.MatchString(p.message):
			v = provision.VerdictNotReady
		}
	}
	brief := kind == formMessageOnly || kind == formOlder
	taken = (kind == formDocumented || brief) && exists.MatchString(p.message+" "+p.code)
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
	case v == provision.VerdictUnauthorized && (kind != formForeign || json.Valid(a.body)),
		a.status == http.StatusForbidden && (brief || kind == formEmpty):
		return v, true, false
	case kind == formDocumented, brief && slices.Contains(briefStatuses, a.status), kind == formOlder && a.status == http.StatusNotFound:
		return v, false, false
	}
	return provision.VerdictUnknown, false, false
}

// briefStatuses are the statuses of which the Flow Service is known to say no more than {message} or {errorMessage};
// of 404, {errorMessage}. Gateways of every make say {message} of others, as of an address that they don't know.
var briefStatuses = []int{http.StatusBadRequest, http.StatusPreconditionFailed, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}

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
		e.Message = strings.TrimRight(cmp.Or(p.message, http.StatusText(a.status)), ". ") + "; this is no answer of the Flow Service itself: look for what stands in its way, such as a proxy or a gateway"
	}
	return e
}

// problem is what an error answer says, scrubbed and cut to size.
type problem struct {
	code       string // such as "FLOW-1413-400", "401013", "invalid_scope"; empty if there is none
	number     int    // the n of <PREFIX>-<n>-<status>, 0 where code has another form
	message    string
	requestID  string
	retryAfter time.Duration
}

// problemBody is the union of the error bodies that come from one and the same address: the Flow
// Service's present and older ones, Adobe's gateway, the platform's generic one, and IMS. Any field
// may be missing or of another type.
type problemBody struct {
	Type         text `json:"type"`
	Title        text `json:"title"`
	Status       text `json:"status"`
	Detail       text `json:"detail"`
	ErrorMessage text `json:"errorMessage"`
	ErrorDetails text `json:"errorDetails"`
	Message      text `json:"message"`
	ErrorCode    text `json:"error_code"`
	Error        text `json:"error"`
	Description  text `json:"error_description"`
	RetryAfterMs text `json:"retryAfterMs"`

	Report lenient[struct {
		Detailed  text `json:"detailed-message"`
		RequestID text `json:"request-id"`
	}] `json:"report"`
}

// form is that of an error answer, which shows whose it is.
type form int

const (
	formMessageOnly form = iota // no more than {message}: the Flow Service says that at times, as others do
	formOlder                   // no more than {errorMessage} or with errorDetails: the Flow Service's older form, and others'
	formForeign                 // HTML, text, or JSON in a form that no service of Adobe's is known to use
	formEmpty                   // no body: the Flow Service documents that of some statuses
	formDocumented              // a form that is documented of the Flow Service or of Adobe's gateway, and of nobody else
)

var (
	// serviceType is the type of an error of the Flow Service, or of the sources behind it.
	serviceType = regexp.MustCompile(`^` + adobeHost + `([a-zA-Z0-9/_-]*/)?[A-Z][A-Z0-9_]{0,30}-[0-9]{1,6}-[0-9]{3}$`)
	// genericType is the type of an error in the platform's generic form, which others use, too (RFC 7807). The
	// placeholder is what Adobe's documentation shows.
	genericType = regexp.MustCompile(`^` + adobeHost + `|^/placeholder/type/uri$`)
	// gatewayCode is a code of Adobe's gateway: a status and three digits.
	gatewayCode = regexp.MustCompile(`^[1-5][0-9]{5}$`)
	// timedOut is what a gateway or a function says of a call that went on without it.
	timedOut = regexp.MustCompile(`(?i)\btime[ds]?[ -]?out\b`)
)

const adobeHost = `https?://([a-z0-9-]+\.)*adobe\.(com|io)/`

// formOf returns the form of an answer. One that was cut is foreign, and so is one that says a thing twice.
func formOf(a answer) form {
	if len(bytes.TrimSpace(a.body)) == 0 && a.bodyErr == nil {
		return formEmpty
	}
	o, ok := readObject(a.body)
	var b problemBody
	if a.bodyErr != nil || !ok || json.Unmarshal(a.body, &b) != nil {
		return formForeign
	}
	switch kind := o.text("type"); {
	case serviceType.MatchString(kind),
		o["error_code"] != nil && gatewayCode.MatchString(string(b.ErrorCode)) && o.text("message") != "",
		genericType.MatchString(kind) && o.text("title") != "" && o.text("detail") != "" && o["status"] != nil && b.Status != "":
		return formDocumented
	case timedOut.MatchString(string(b.text())):
	case o.text("errorMessage") != "" && o.only("errorMessage", "errorDetails"):
		return formOlder
	case o.text("message") != "" && o.only("message"):
		return formMessageOnly
	}
	return formForeign
}

// Limits of what is taken over from upstream.
const (
	maxMessage    = 500 // characters
	maxCode       = 64  // bytes
	maxRequestID  = 128 // bytes
	maxRetryAfter = 24 * time.Hour
)

var (
	serviceCode = regexp.MustCompile(`([A-Z][A-Z0-9_]{0,30})-([0-9]{1,6})-([0-9]{3})$`)
	identifier  = regexp.MustCompile(`^[A-Za-z0-9._:/=+-]+$`)
)

// readProblem reads an error answer of any shape. It never fails: what it cannot read is left empty.
// Of the body it takes over the fields that are made for people, and nothing of one that isn't JSON:
// that may be an echo of the request, a page for somebody else, or anything.
func readProblem(h http.Header, body []byte, s scrubber) problem {
	var b problemBody
	if json.Unmarshal(body, &b) != nil {
		b = problemBody{} // a part of it may have been read
	}
	said, id := string(b.text()), cmp.Or(string(b.Report.value.RequestID), h.Get("X-Request-Id"))
	code, number := b.code()
	p := problem{
		code: s.id(code, maxCode), message: s.message(said), requestID: s.id(id, maxRequestID),
		retryAfter: retryAfter(h.Get("Retry-After"), string(b.RetryAfterMs), time.Now()),
	}
	if p.code != "" {
		p.number = number
	}
	return p
}

// code returns the body's code, and its n where it has the form <PREFIX>-<n>-<status>.
func (b problemBody) code() (code string, number int) {
	if m := serviceCode.FindStringSubmatch(string(b.Type)); m != nil {
		number, _ = strconv.Atoi(m[2]) // six digits at most
		return m[0], number
	}
	return cmp.Or(string(b.ErrorCode), string(b.Error)), 0
}

// text returns the text of the body that says most.
func (b problemBody) text() text {
	for _, t := range []text{b.Report.value.Detailed, b.ErrorMessage, b.ErrorDetails, b.Detail, b.Message, b.Description, b.Title} {
		if strings.TrimSpace(string(t)) != "" {
			return t
		}
	}
	return b.Error
}

// retryAfter reads a Retry-After header, in seconds or as a date, and in its absence a number of
// milliseconds. It returns 0 for what it cannot read, and at most maxRetryAfter.
func retryAfter(header, millis string, now time.Time) time.Duration {
	if secs, err := strconv.ParseFloat(header, 64); err == nil {
		return bounded(secs * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return bounded(float64(at.Sub(now)))
	}
	if ms, err := strconv.ParseFloat(millis, 64); err == nil {
		return bounded(ms * float64(time.Millisecond))
	}
	return 0
}

func bounded(ns float64) time.Duration {
	if !(ns > 0) { // also not a number
		return 0
	}
	return time.Duration(min(ns, float64(maxRetryAfter)))
}

// Codes of the Flow Service that change a verdict. A code is the n of <PREFIX>-<n>-<status>: the
// status in it is not always the one of the answer.
const (
	codeProvider = 1308 // text of the connector's provider: bad credentials, cluster not running, …
	codeNoToken  = 2114
	codeBadToken = 2115
)

// clusterAsleep recognizes, in a provider's text, a cluster that does not run now but may later. The
// capitals are the states and error codes of Databricks' cluster API.
var clusterAsleep = regexp.MustCompile(`(?i)\b(` + strings.Join([]string{
	`not (in a )?(running|ready|started|active)`, `is(n't| not) running`, `not currently running`,
	`(is|was|been|state:?) (stopped|starting|pending|terminated|terminating|restarting|resizing)`,
	`TERMINATED`, `TERMINATING`, `PENDING`, `RESTARTING`, `RESIZING`,
	`TEMPORARILY_UNAVAILABLE`, `temporarily unavailable`, `CLUSTER_NOT_(READY|RUNNING)`,
}, "|") + `)\b`)

// numberRemedies says what people can do about a code of the Flow Service, by its n.
var numberRemedies = map[int]string{
	1100: "the organisation is not entitled to this source; Databricks needs Real-Time CDP Ultimate",
	1301: "use an auth.specName that the connection spec lists",
	1302: "use an auth.specName that the connection spec lists",
	1303: "use an auth.specName that the connection spec lists",
	1304: "add the field that the connection spec calls mandatory to auth.params",
	1308: "check domain, clusterId and database, that the Databricks token is valid and has not expired, and that the cluster runs",
	1405: "this is a bug of flow-worker, please report it",
	1413: "check connectionSpec.id and version",
	1415: "use an auth.specName that the connection spec lists, such as Access Token Authentication",
	1439: "it does not exist, or access labels hide it",
	2000: remedyOrg,
	2001: remedyOrg,
	2002: remedyOrg,
	2100: remedySandbox,
	2101: remedySandbox,
	2103: remedySandbox,
	2105: remedySandbox,
	2110: "this is a bug of flow-worker, please report it",
	2111: remedySandbox,
	2114: remedyToken,
	2115: remedyToken,
	2118: remedyRights,
	2120: remedyRights,
	2121: remedyRights,
}

// nameRemedies is the same for the codes of Adobe's gateway and of IMS.
var nameRemedies = map[string]string{
	"401013": remedyToken,
	"403010": "this is a bug of flow-worker, please report it",
	"403000": remedyKey,
	"403003": remedyKey,
	"403025": "the credential is not entitled in this organisation; " + remedyOrg,
	"403027": "check orgId (it ends in @AdobeOrg) and give the credential an Experience Platform product profile",
	"400003": remedyOrg,

	"invalid_client":      remedyClient,
	"unauthorized_client": remedyClient,
	"invalid_scope":       "set scopes in the tenant's adobe secret to those of the credential, separated by commas",
}

// statusRemedies is what remains where the code says nothing.
var statusRemedies = map[int]string{
	http.StatusUnauthorized:    remedyToken,
	http.StatusForbidden:       remedyRights,
	http.StatusTooManyRequests: "give the worker a credential of its own, or a lower WORKER_CONCURRENCY",
}

const (
	remedyOrg     = "check that orgId in the tenant's adobe secret is the organisation of its credential"
	remedyKey     = "check clientId (or apiKey) in the tenant's adobe secret"
	remedyClient  = "check clientId and clientSecret in the tenant's adobe secret"
	remedyToken   = "the Adobe token is not accepted; check clientId and clientSecret (or accessToken) in the tenant's adobe secret"
	remedySandbox = "check that the sandbox exists and that the credential may use it"
	remedyRights  = "give the credential's role the permission to manage sources in this sandbox"
)

// advise returns upstream's words, followed by what to do where that is known.
func advise(status int, p problem) string {
	text := cmp.Or(p.message, http.StatusText(status), "HTTP status "+strconv.Itoa(status))
	if r := remedy(status, p); r != "" {
		return strings.TrimRight(text, ". ") + "; " + r
	}
	return text
}

func remedy(status int, p problem) string {
	if r, ok := numberRemedies[p.number]; ok {
		return r
	}
	if r, ok := nameRemedies[p.code]; ok {
		return r
	}
	return statusRemedies[status]
}
