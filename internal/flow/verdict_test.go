package flow

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestStatusVerdicts holds every HTTP status against a second opinion: the statuses that are a
// definite no are listed here one by one, and all others have to be unknown.
func TestStatusVerdicts(t *testing.T) {
	t.Parallel()
	definite := map[int]provision.Verdict{
		400: provision.VerdictRejected, 401: provision.VerdictUnauthorized, 402: provision.VerdictDenied,
		403: provision.VerdictDenied, 404: provision.VerdictRejected, 405: provision.VerdictRejected,
		407: provision.VerdictDenied, 410: provision.VerdictRejected, 411: provision.VerdictRejected,
		412: provision.VerdictRejected, 413: provision.VerdictRejected, 414: provision.VerdictRejected,
		415: provision.VerdictRejected, 416: provision.VerdictRejected, 417: provision.VerdictRejected,
		422: provision.VerdictRejected, 426: provision.VerdictRejected, 428: provision.VerdictRejected,
		429: provision.VerdictThrottled, 431: provision.VerdictRejected, 451: provision.VerdictDenied,
	}
	for status := -1; status <= 700; status++ {
		if got, want := statusVerdict(status), definite[status]; got != want {
			t.Errorf("status %d: %v, want %v", status, got, want)
		}
	}
}

// TestStatusVerdictsAreComplete checks that the table has one line for every status, no more.
func TestStatusVerdictsAreComplete(t *testing.T) {
	t.Parallel()
	next := 100
	for _, v := range statusVerdicts {
		if v.from != next || v.to < v.from {
			t.Errorf("line %d to %d: want it to begin at %d", v.from, v.to, next)
		}
		next = v.to + 1
	}
	if next != 600 {
		t.Errorf("the table ends before %d, want 600", next)
	}
}

// TestVerdictCauses checks that a verdict has a cause exactly if it is worth another try.
func TestVerdictCauses(t *testing.T) {
	t.Parallel()
	for status := 100; status < 600; status++ {
		err := judge(answer{status: status, header: http.Header{}}, scrubber{})
		final := err.Verdict == provision.VerdictDenied || err.Verdict == provision.VerdictRejected
		if (err.Cause == "") != final {
			t.Errorf("status %d: verdict %v with cause %q", status, err.Verdict, err.Cause)
		}
		if err.Message == "" || err.Status != status || err.Target != provision.TargetFlow {
			t.Errorf("status %d: %+v", status, err)
		}
	}
}

func TestCodeVerdicts(t *testing.T) {
	t.Parallel()
	flow := func(n, status int, text string) string {
		return fmt.Sprintf(`{"type":"https://ns.adobe.com/aep/errors/FLOW-%d-%d","report":{"detailed-message":%q}}`, n, status, text)
	}
	for _, tc := range []struct {
		name   string
		status int
		body   string
		want   provision.Verdict
	}{
		{"no bearer token", 400, flow(2114, 400, "x"), provision.VerdictUnauthorized},
		{"bad bearer token", 400, flow(2115, 400, "x"), provision.VerdictUnauthorized},
		{"code of another status", 400, flow(2115, 401, "x"), provision.VerdictUnauthorized},
		{"token code under 500", 500, flow(2115, 400, "x"), provision.VerdictUnknown},
		{"auth spec", 400, flow(1415, 400, "x"), provision.VerdictRejected},
		{"status beats code", 504, flow(1413, 400, "x"), provision.VerdictUnknown},
		{"time-out of the service", 408, flow(1006, 408, "x"), provision.VerdictUnknown},
		{"bad credentials", 400, flow(1308, 400, "Invalid access token."), provision.VerdictRejected},
		{"no such cluster", 400, flow(1308, 400, "Cluster 0712 does not exist"), provision.VerdictRejected},
		{"asleep", 400, flow(1308, 400, "Cluster 0712 is not running."), provision.VerdictNotReady},
		{"asleep, prefix of the sources", 400, `{"type":"https://ns.adobe.com/aep/errors/CONNECTOR-1308-400","errorMessage":"the cluster was terminated"}`, provision.VerdictNotReady},
		{"terminated", 400, flow(1308, 400, "Cluster state: TERMINATED"), provision.VerdictNotReady},
		{"pending", 400, flow(1308, 400, "cluster in state PENDING"), provision.VerdictNotReady},
		{"restarting", 400, flow(1308, 400, "RESTARTING"), provision.VerdictNotReady},
		{"busy", 400, flow(1308, 400, "error_code: TEMPORARILY_UNAVAILABLE"), provision.VerdictNotReady},
		{"asleep, of another maker", 400, `{"type":"https://gw.example/ERR-1308-400","errorMessage":"the cluster was terminated"}`, provision.VerdictUnknown},
		{"token code of another maker", 400, `{"type":"https://gw.example/ERR-2115-400","errorMessage":"x"}`, provision.VerdictUnknown},
		{"suspending, not pending", 400, flow(1308, 400, "depending on the plan"), provision.VerdictRejected},
		{"asleep without the code", 400, flow(1415, 400, "not running"), provision.VerdictRejected},
		{"asleep under 403", 403, flow(1308, 403, "not running"), provision.VerdictDenied},
		{"asleep under 500", 500, flow(1308, 500, "not running"), provision.VerdictUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := judge(answer{status: tc.status, header: http.Header{}, body: []byte(tc.body)}, scrubber{})
			if err.Verdict != tc.want {
				t.Errorf("verdict %v, want %v (%v)", err.Verdict, tc.want, err)
			}
		})
	}
}

// TestWhoseAnswer: a verdict that ends a request is believed of the Flow Service and of Adobe's gateway only,
// and of a passing one it is said that it has to last. docs/guarantees.md has the same table for people.
func TestWhoseAnswer(t *testing.T) {
	t.Parallel()
	const (
		unknown, unauthorized, denied = provision.VerdictUnknown, provision.VerdictUnauthorized, provision.VerdictDenied
		rejected, throttled           = provision.VerdictRejected, provision.VerdictThrottled
		ours                          = `{"type":"https://ns.adobe.com/aep/errors/FLOW-1100-400","title":"t","status":400,"report":{"detailed-message":"m"}}`
		older                         = `{"errorMessage":"m"}`
		brief                         = `{"message":"no Route matched with those values"}`
		gateway                       = `{"error_code":403025,"message":"Profile is not valid"}`
		generic                       = `{"type":"/placeholder/type/uri","status":400,"title":"BadRequestError","detail":"d"}`
		spring                        = `{"timestamp":"2026-11-30T10:00:00Z","status":400,"error":"Bad Request","message":"Bad Request","path":"/connections"}`
		kong                          = `{"message":"no Route matched with those values","request_id":"f5d1"}`
		lambda                        = `{"errorMessage":"2026-11-30T10:00:00Z f5d1 Task timed out after 30.00 seconds"}`
		foreign                       = `{"type":"https://tools.ietf.org/html/rfc7231","status":404,"title":"Not Found","detail":"d"}`
		html                          = `<html><body>Access denied</body></html>`
		taken                         = `{"errorMessage":"A connection with the name 'orders' already exists."}`
	)
	for _, tc := range []struct {
		status         int
		body           string
		want           provision.Verdict
		passing, taken bool
	}{
		{400, ours, rejected, false, false},
		{400, older, rejected, false, false},
		{400, generic, rejected, false, false},
		{400, gateway, rejected, false, false},
		{400, brief, rejected, false, false},
		{400, foreign, unknown, false, false},
		{400, spring, unknown, false, false},
		{400, kong, unknown, false, false},
		{400, lambda, unknown, false, false},
		{404, lambda, unknown, false, false},
		{400, `{"errorMessage":"x","errorType":"Error","stackTrace":[]}`, unknown, false, false},
		{400, `{"message":"Endpoint request timed out"}`, unknown, false, false},
		{400, `{"Message":"No HTTP resource was found"}`, unknown, false, false},
		{400, `{"message":"a","message":"b"}`, unknown, false, false},
		{400, `{"error_code":"INVALID_PARAMETER_VALUE","message":"m"}`, unknown, false, false},
		{400, `{"code":40001,"message":"m"}`, unknown, false, false},
		{400, `{"type":"/problems/bad-request","title":"Bad Request","status":400,"detail":"d"}`, unknown, false, false},
		{400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"d"}`, unknown, false, false},
		{400, `{"type":"https://ns.adobe.com/aep/errors/bad","title":"Bad Request","status":400,"detail":"d"}`, rejected, false, false},
		{400, `{"type":"http://www.adobe.com/FLOW-1413-400","title":"t","status":400,"detail":"d"}`, rejected, false, false},
		{400, `{"type":"https://ns.adobe.com.example/aep/errors/FLOW-1413-400","errorMessage":"m"}`, unknown, false, false},
		{400, `{"type":"https://notadobe.com/FLOW-1413-400","errorMessage":"m"}`, unknown, false, false},
		{404, `{"type":"/problems/no-route","title":"t","status":404,"detail":"d"}`, unknown, false, false},
		{404, `{"type":"https://gw.example/ERR-1-404"}`, unknown, false, false},
		{403, spring, unknown, false, false},
		{403, kong, unknown, false, false},
		{403, older, denied, true, false},
		{405, older, unknown, false, false},
		{400, html, unknown, false, false},
		{400, ``, unknown, false, false},
		{400, ours[:40], unknown, false, false},
		{401, gateway, unauthorized, true, false},
		{401, brief, unauthorized, true, false},
		{401, `{}`, unauthorized, true, false},
		{401, ``, unauthorized, true, false},
		{401, html, unknown, false, false},
		{403, ours, denied, false, false},
		{403, gateway, denied, false, false},
		{403, ``, denied, true, false},
		{403, brief, denied, true, false},
		{403, foreign, unknown, false, false},
		{403, html, unknown, false, false},
		{404, ours, rejected, false, false},
		{404, older, rejected, false, false},
		{404, brief, unknown, false, false},
		{404, foreign, unknown, false, false},
		{404, ``, unknown, false, false},
		{405, html, unknown, false, false},
		{407, html, unknown, false, false},
		{412, brief, rejected, false, false},
		{413, html, unknown, false, false},
		{422, older, rejected, false, false},
		{429, gateway, throttled, false, false},
		{429, html, throttled, false, false},
		{429, ``, throttled, false, false},
		{503, ``, unknown, false, false},
		{400, taken, unknown, false, true},
		{409, taken, unknown, false, true},
		{422, taken, unknown, false, true},
		{409, older, unknown, false, false},
		{409, html, unknown, false, false},
		{403, taken, denied, true, false},
		{500, taken, unknown, false, false},
		{422, `{"errorMessage":"name must be unique"}`, unknown, false, true},
		{400, `{"errorMessage":"Duplicate connection name"}`, unknown, false, true},
		{400, `{"message":"The name is already being used"}`, unknown, false, true},
		{409, `{"error_code":"409001","message":"ALREADY_EXISTS"}`, unknown, false, true},
		{409, `{"error_code":"ALREADY_EXISTS","message":"Conflict"}`, unknown, false, false},
		{409, `<html>already exists`, unknown, false, false},
		{400, `{"errorMessage":"connection spec does not exist"}`, rejected, false, false},
	} {
		err := judge(answer{status: tc.status, header: http.Header{}, body: []byte(tc.body)}, scrubber{})
		if err.Verdict != tc.want || err.Passing != tc.passing || err.Exists != tc.taken || err.Message == "" {
			t.Errorf("%d %s: %v, passing %v, exists %v (%s); want %v, %v, %v", tc.status, tc.body,
				err.Verdict, err.Passing, err.Exists, err.Message, tc.want, tc.passing, tc.taken)
		}
	}
}

// TestSamplesAreBelieved: every documented refusal ends a request, or is one that can pass.
func TestSamplesAreBelieved(t *testing.T) {
	t.Parallel()
	for _, file := range []string{
		"error-flow-400-authspec.json", "error-flow-400-inuse.json", "error-flow-400-provider.json", "error-flow-403.json", "error-flow-404.json",
		"error-flow-412.json", "error-gateway-400003.json", "error-gateway-401013-number.json", "error-gateway-401013.json", "error-gateway-403000.json",
		"error-gateway-403003.json", "error-gateway-403010.json", "error-gateway-403025.json", "error-gateway-403027.json", "error-gateway-429050.json",
		"error-legacy-400-spec.json", "error-legacy-404.json", "error-legacy-412.json", "error-rfc7807-contenttype-400.json",
	} {
		status, err := strconv.Atoi(regexp.MustCompile(`[0-9]{3}`).FindString(file))
		if strings.Contains(file, "rfc7807") {
			status = http.StatusBadRequest
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(answer{status: status, header: http.Header{}, body: sample(t, file)}, scrubber{}); got.Verdict != statusVerdict(status) || got.Passing && status != http.StatusUnauthorized {
			t.Errorf("%s: %v, passing %v; want %v", file, got.Verdict, got.Passing, statusVerdict(status))
		}
	}
}

// TestProblemShapes reads one error body of every shape that comes from the Flow Service's address.
func TestProblemShapes(t *testing.T) {
	t.Parallel()
	const id = "QxEXAMPLEreqIdzK9"
	for file, want := range map[string]problem{
		"error-flow-400-authspec.json":        {code: "FLOW-1415-400", number: 1415, message: "Auth spec 'Acces Token' not found for the connection spec.", requestID: id},
		"error-flow-400-inuse.json":           {code: "FLOW-1418-400", number: 1418, message: "Base connection is used by one or more flows.", requestID: id},
		"error-flow-400-provider.json":        {code: "FLOW-1308-400", number: 1308, message: "Request could not be processed: <text from the Microsoft provider>", requestID: id},
		"error-flow-403.json":                 {code: "FLOW-2120-403", number: 2120, message: "Not enough permissions for this operation.", requestID: id},
		"error-flow-404.json":                 {code: "FLOW-1439-404", number: 1439, message: "The requested connections resource 3b0f6c1e is not found.", requestID: id},
		"error-flow-412.json":                 {code: "FLOW-1404-412", number: 1404, message: "Supplied version does not match the current version.", requestID: id},
		"error-flow-504.json":                 {code: "FLOW-1104-504", number: 1104, message: "A gateway timeout has occurred.", requestID: id},
		"error-legacy-400-spec.json":          {message: "Please provide a valid spec id"},
		"error-legacy-404.json":               {message: "connections not found with id = [3b0f6c1e]"},
		"error-legacy-412.json":               {message: `Supplied version=["aa"] does not match the current version on entity=["bb"]`},
		"error-gateway-400003.json":           {code: "400003", message: "Missing header"},
		"error-gateway-401013.json":           {code: "401013", message: "Oauth token is not valid"},
		"error-gateway-401013-number.json":    {code: "401013", message: "Oauth token is not valid"},
		"error-gateway-403000.json":           {code: "403000", message: "Api Key is required"},
		"error-gateway-403003.json":           {code: "403003", message: "Api Key is invalid"},
		"error-gateway-403010.json":           {code: "403010", message: "Oauth token is missing."},
		"error-gateway-403025.json":           {code: "403025", message: "Profile is not valid"},
		"error-gateway-403027.json":           {code: "403027", message: "User region is missing"},
		"error-gateway-429050.json":           {code: "429050", message: "Too many requests"},
		"error-rfc7807-contenttype-400.json":  {message: "A valid content-type must be specified"},
		"ims-error-invalid-scope-400.json":    {code: "invalid_scope", message: "Requested scopes are not a subset of the credential's scopes."},
		"connections-list-empty-200.json":     {},
		"connections-list-duplicate-200.json": {},
	} {
		got := readProblem(http.Header{}, sample(t, file), scrubber{})
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(problem{})); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

func TestProblemsWithoutAShape(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want problem
	}{
		"empty":         {"", problem{}},
		"null":          {"null", problem{}},
		"a number":      {"17", problem{}},
		"text":          {" upstream connect error\r\n\x1b[31mreset\x00 ", problem{}},
		"HTML":          {"<!doctype html><html><head><title>502\nBad &amp; Gateway</title></head>", problem{}},
		"HTML, untold":  {"<html><body>secret things", problem{}},
		"odd types":     {`{"message":{"a":1},"report":"x","type":7,"error_code":[1],"detail":"d"}`, problem{message: "d"}},
		"blank first":   {`{"errorMessage":"  ","title":"t"}`, problem{message: "t"}},
		"only an error": {`{"error":"oops"}`, problem{code: "oops", message: "oops"}},
		"wild code":     {`{"error_code":"a b","message":"m"}`, problem{message: "m"}},
		"long code":     {`{"error_code":"` + strings.Repeat("1", 65) + `","message":"m"}`, problem{message: "m"}},
		"cut JSON":      {`{"message":"m`, problem{}},
		"odd text":      {`{"message":" upstream error\r\n\u001b[31mreset\u0000 "}`, problem{message: "upstream error [31mreset"}},
		"huge number":   {`{"type":"FLOW-99999999999999999999-400","message":"m"}`, problem{message: "m"}},
		"not UTF-8":     {"a\xffb", problem{}},
	} {
		got := readProblem(http.Header{}, []byte(tc.body), scrubber{})
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(problem{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRequestIDFromHeader(t *testing.T) {
	t.Parallel()
	h := http.Header{"X-Request-Id": {"from-header"}}
	if got := readProblem(h, nil, scrubber{}).requestID; got != "from-header" {
		t.Errorf("%q, want the header's", got)
	}
	if got := readProblem(h, []byte(`{"report":{"request-id":"from-body"}}`), scrubber{}).requestID; got != "from-body" {
		t.Errorf("%q, want the body's", got)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		header, millis string
		want           time.Duration
	}{
		{"", "", 0}, {"7", "", 7 * time.Second}, {"0", "9000", 0}, {"-5", "", 0}, {"1.5", "", 1500 * time.Millisecond},
		{"Sun, 22 Nov 2026 03:01:00 GMT", "", time.Minute}, {"Sun, 22 Nov 2026 02:59:00 GMT", "", 0},
		{"soon", "", 0}, {"soon", "250", 250 * time.Millisecond}, {"", "1e3", time.Second}, {"", "x", 0},
		{"1e300", "", maxRetryAfter}, {"NaN", "", 0}, {"+Inf", "", maxRetryAfter}, {"99999999", "", maxRetryAfter},
	} {
		if got := retryAfter(tc.header, tc.millis, now); got != tc.want {
			t.Errorf("%q, %q: %v, want %v", tc.header, tc.millis, got, tc.want)
		}
	}
}

// TestAdvice checks that every code with a remedy gives it, after upstream's words.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for n, want := range numberRemedies {
		if got := advise(400, problem{number: n, message: "It failed."}); got != "It failed; "+want {
			t.Errorf("code %d: %q", n, got)
		}
	}
	for code, want := range nameRemedies {
		if got := advise(400, problem{code: code}); got != "Bad Request; "+want {
			t.Errorf("code %s: %q", code, got)
		}
	}
	for status, want := range map[int]string{
		403: "Forbidden; " + remedyRights, 422: "Unprocessable Entity", 599: "HTTP status 599",
	} {
		if got := advise(status, problem{}); got != want {
			t.Errorf("status %d: %q, want %q", status, got, want)
		}
	}
}

// FuzzProblem feeds error bodies to the decoder. Whatever comes, the texts that are taken over are
// short, on one line, valid, and without the call's secret.
func FuzzProblem(f *testing.F) {
	for _, file := range []string{"error-flow-400-authspec.json", "error-legacy-412.json", "error-gateway-401013-number.json",
		"error-rfc7807-contenttype-400.json", "ims-error-invalid-scope-400.json"} {
		f.Add(sample(f, file), "x")
	}
	for _, body := range []string{"", "null", "[]", `"a"`, "<title>x</title>", `{"message":"a `, `{"retryAfterMs":-1e400}`,
		`{"report":{"request-id":{}},"error_code":1e9}`, "\x00\xff", `{"type":"FLOW-1-400","error":"%70\u0061&#x74;"}`} {
		f.Add([]byte(body), body)
	}
	const secret = "pat-0123456789-secret"
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		s := newScrubber(provision.NewSensitive(secret))
		for _, b := range [][]byte{body, append(body[:len(body):len(body)], `{"message":"`+secret+`"}`...)} {
			p := readProblem(http.Header{"X-Request-Id": {header, secret}, "Retry-After": {header}}, b, s)
			checkTold(t, p, secret)
			if v := judge(answer{status: 500, header: http.Header{}, body: b}, s).Verdict; v != provision.VerdictUnknown {
				t.Errorf("a 500 is judged %v by its body", v)
			}
		}
	})
}

func checkTold(t *testing.T, p problem, secret string) {
	t.Helper()
	if utf8.RuneCountInString(p.message) > maxMessage || len(p.code) > maxCode || len(p.requestID) > maxRequestID {
		t.Errorf("too long: %+v", p)
	}
	for _, s := range []string{p.message, p.code, p.requestID} {
		if !utf8.ValidString(s) || strings.IndexFunc(s, unicode.IsControl) >= 0 || strings.Contains(s, secret) {
			t.Errorf("%q is not fit to be told", s)
		}
	}
	if p.retryAfter < 0 || p.retryAfter > maxRetryAfter {
		t.Errorf("retry after %v", p.retryAfter)
	}
}
