package flow

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

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
