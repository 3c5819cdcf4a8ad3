package flow

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/google/go-cmp/cmp"
)

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
