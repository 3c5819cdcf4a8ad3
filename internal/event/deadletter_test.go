package event

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const goodParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func letter(headers map[string][]string, body string) Letter {
	return Letter{Headers: headers, Body: []byte(body), Key: provision.Key{Tenant: "acme", Source: "/portal", ID: "r 1"},
		Fingerprint: "f", Reason: provision.ReasonFlowRejected, FailedAt: entered}
}

func TestDeadLetterKeepsWhatIsHarmless(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers map[string][]string
		body    string
	}{
		"bare":       {nil, goodData},
		"structured": {head("Content-Type", ContentType), "\n " + structured(t, goodData, nil) + "\n"},
		"base64":     {nil, structured(t, "{}", map[string]any{"data": absent{}, "data_base64": base64.StdEncoding.EncodeToString([]byte(goodData))})},
		"binary":     {binary(map[string]string{"ce-expirytime": "2026-11-23T00:00:00Z", "ce-traceparent": goodParent, "tracestate": "a=1,b@c=2"}), goodData},
		"bad values": {nil, with(t, goodData, map[string]any{"sandbox": 3, "name": nil, "auth.params.domain": "https://not-allowed.example", "auth.params.accessToken": nil})},
		"two names":  {nil, strings.Replace(goodData, `"sandbox"`, `"sandbox":"dev","sandbox"`, 1)},
	} {
		got := decoder.DeadLetter(letter(c.headers, c.body))
		if string(got.Body) != c.body {
			t.Errorf("%s: changed to %s", name, got.Body)
		}
		if got.Headers["Flow-Worker-Redacted"] != nil {
			t.Errorf("%s: said to be redacted", name)
		}
	}
}

func TestDeadLetterHeaders(t *testing.T) {
	t.Parallel()
	in := binary(map[string]string{"CE-Subject": "s", "ce-password": secret, "content-type": "application/json", "Content-Type": "-",
		"TraceParent": goodParent, "tracestate": "t=1", "flow-worker-retry": "2", "Nats-Msg-Id": "m", "Nats-Expected-Stream": "X",
		"Authorization": secret, "Flow-Worker-Reason": "forged"})
	l := letter(in, goodData)
	l.Retry = 2
	got := decoder.DeadLetter(l)
	want := map[string][]string{
		"Content-Type": {"application/json"}, "traceparent": {goodParent}, "tracestate": {"t=1"}, "Flow-Worker-Retry": {"2"},
		"ce-specversion": {"1.0"}, "ce-id": {"r-1"}, "ce-source": {"/portal"}, "ce-type": {TypeCreate}, "ce-subject": {"s"},
		"ce-password":        {"[redacted]"},
		"Flow-Worker-Reason": {"flow_rejected"}, "Flow-Worker-Request-Key": {"acme.=2Fportal.r=201"},
		"Flow-Worker-Failed-At": {"2026-11-22T03:00:00.000000123Z"}, "Flow-Worker-Redacted": {"true"},
		"Nats-Msg-Id": {l.Key.EventID(2, "deadletter")},
	}
	if diff := cmp.Diff(want, got.Headers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Subject != "connections.deadletters.acme" {
		t.Error(got.Subject)
	}
}

func TestDeadLetterRedacts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ path, want string }{
		"token":              {"auth.params.accessToken", `"accessToken":"[redacted]"`},
		"unknown parameter":  {"auth.params.password", `"password":"[redacted]"`},
		"unknown field":      {"oops", `"oops":"[redacted]"`},
		"unknown in auth":    {"auth.oops", `"oops":"[redacted]"`},
		"params themselves":  {"auth.params", `"params":"[redacted]"`},
		"auth itself":        {"auth", `"auth":"[redacted]"`},
		"unknown in a spec":  {"connectionSpec.key", `"key":"[redacted]"`},
		"other case":         {"auth.params.AccessToken", `"AccessToken":"[redacted]"`},
		"malformed by blank": {"auth.params.accessToken ", `"accessToken ":"[redacted]"`},
	} {
		for kind, value := range map[string]any{"text": secret, "object": map[string]any{"k": secret}, "list": []any{1, secret},
			"broken reference": "vault:" + secret, "forbidden reference": "vault:../" + secret + "#x"} {
			data := with(t, goodData, map[string]any{c.path: value})
			for form, got := range map[string]Message{
				"bare":       decoder.DeadLetter(letter(nil, data)),
				"structured": decoder.DeadLetter(letter(nil, structured(t, data, nil))),
				"binary":     decoder.DeadLetter(letter(binary(nil), data)),
			} {
				text := fmt.Sprint(string(got.Body), got.Headers)
				hidden := strings.Contains(text, c.want) || strings.Contains(text, `"k":"[redacted]"`)
				if strings.Contains(text, secret) || !hidden || got.Headers["Flow-Worker-Redacted"] == nil {
					t.Errorf("%s, %s, %s: %s", name, kind, form, text)
				}
			}
		}
	}
}

func TestDeadLetterKeepsBytesAroundWhatIsRemoved(t *testing.T) {
	t.Parallel()
	mark := func(text, value string) string { return strings.Replace(text, "\"$\"", value, 1) }
	layout := `{ "sandbox" :"prod","x": "$"  , "auth":{"params":{"accessToken" : "$",` + "\n\t" + `"accessToken":"$","database":"d\u0062"}} }`
	in, want := layout, layout
	for _, value := range []string{`{"a":["` + secret + `"]}`, `"` + secret + `"`, `"` + secret + `2"`} {
		in, want = mark(in, value), mark(want, `"[redacted]"`)
	}
	if got := decoder.DeadLetter(letter(nil, in)); string(got.Body) != want {
		t.Errorf("got  %s\nwant %s", got.Body, want)
	}
}

func TestDeadLetterEventParts(t *testing.T) {
	t.Parallel()
	data := with(t, goodData, map[string]any{"auth.params.accessToken": secret})
	encoded := base64.StdEncoding.EncodeToString([]byte(data))
	for name, body := range map[string]string{
		"extension":        structured(t, goodData, map[string]any{"apikey": secret}),
		"number extension": structured(t, goodData, map[string]any{"pin": 48151623}),
		"object as id":     structured(t, goodData, map[string]any{"id": map[string]any{"a": secret}}),
		"base64":           structured(t, "{}", map[string]any{"data": absent{}, "data_base64": encoded}),
		"base64 no JSON":   structured(t, "{}", map[string]any{"data": absent{}, "data_base64": base64.StdEncoding.EncodeToString([]byte(secret))}),
		"not base64":       structured(t, "{}", map[string]any{"data": absent{}, "data_base64": secret + "!"}),
		"two data":         strings.Replace(structured(t, goodData, nil), `"data":`, `"data":`+data+`,"data":`, 1),
		"other type":       structured(t, data, map[string]any{"type": "other"}),
		"text as data":     structured(t, `"`+secret+`"`, nil),
		"text alone":       `"` + secret + `"`,
		"list alone":       `["` + secret + `"]`,
		"deep":             strings.Repeat(`{"a":`, 100) + `"` + secret + `"` + strings.Repeat("}", 100),
	} {
		for _, headers := range []map[string][]string{nil, head("Content-Type", ContentType), binary(nil)} {
			got := decoder.DeadLetter(letter(headers, body))
			for _, hidden := range []string{secret, encoded, base64.StdEncoding.EncodeToString([]byte(secret)), "48151623"} {
				if strings.Contains(string(got.Body), hidden) {
					t.Errorf("%s: tells %s: %s", name, hidden, got.Body)
				}
			}
			if got.Headers["Flow-Worker-Redacted"] == nil {
				t.Errorf("%s: not said to be redacted: %s", name, got.Body)
			}
		}
	}
}

func TestDeadLetterOfUnreadableBody(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"not JSON": `{"accessToken":"` + secret,
		"no UTF-8": "{\"a\":\"" + secret + "\xff\"}",
		"empty":    "",
		"too long": goodData + strings.Repeat(" ", DefaultMaxBytes),
	} {
		got := decoder.DeadLetter(letter(head("Content-Type", ContentType), body))
		sum := sha256.Sum256([]byte(body))
		want := fmt.Sprintf(`{"bytes":%d,"sha256":"%s"}`, len(body), hex.EncodeToString(sum[:]))
		if string(got.Body) != want {
			t.Errorf("%s: got %s, want %s", name, got.Body, want)
		}
		if got.Headers["Content-Type"][0] != "application/json" || got.Headers["Flow-Worker-Redacted"] == nil {
			t.Errorf("%s: headers %v", name, got.Headers)
		}
	}
}

func TestDeadLetterMsgID(t *testing.T) {
	t.Parallel()
	id := func(change func(*Letter)) string {
		l := letter(nil, goodData)
		change(&l)
		return decoder.DeadLetter(l).Headers["Nats-Msg-Id"][0]
	}
	first := id(func(*Letter) {})
	if first != id(func(l *Letter) { l.FailedAt = entered.Add(1); l.Fingerprint = "g" }) {
		t.Error("a failure told again has another id")
	}
	seen := map[string]string{first: "first"}
	for name, change := range map[string]func(*Letter){
		"other key":        func(l *Letter) { l.Key.ID = "r-2" },
		"other tenant":     func(l *Letter) { l.Key.Tenant = "umbrella" },
		"no tenant":        func(l *Letter) { l.Key.Tenant = "ACME" },
		"retry":            func(l *Letter) { l.Retry = 1 },
		"id reused":        func(l *Letter) { l.Reason = provision.ReasonIDReused },
		"id reused, again": func(l *Letter) { l.Reason = provision.ReasonIDReused; l.Fingerprint = "g" },
		"detached":         func(l *Letter) { l.Detached = true; l.Salt = "s" },
		"detached, again":  func(l *Letter) { l.Detached = true; l.Salt = "u" },
	} {
		if got := id(change); seen[got] != "" {
			t.Errorf("%s: the same id as %s", name, seen[got])
		} else {
			seen[got] = name
		}
	}
}

func TestDeadLetterWithoutTenant(t *testing.T) {
	t.Parallel()
	l := letter(nil, goodData)
	l.Key.Tenant = "NOT.a tenant"
	got := decoder.DeadLetter(l)
	if got.Subject != "connections.deadletters._invalid" || got.Headers["Flow-Worker-Request-Key"][0] != "_invalid.=2Fportal.r=201" {
		t.Errorf("%s %v", got.Subject, got.Headers)
	}
}

// A retry header that holds no number may hold anything.
func TestDeadLetterKeepsOnlyNumbersOfARetryHeader(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"1": "1", "007": "007", "99999999999999999999": "99999999999999999999", secret: provision.Redacted, "-1": provision.Redacted,
		"1 " + secret: provision.Redacted, "١": provision.Redacted, "999999999999999999999": provision.Redacted,
	} {
		got := decoder.DeadLetter(letter(binary(map[string]string{"Flow-Worker-Retry": value}), goodData)).Headers
		wantFlag := want == provision.Redacted
		if got["Flow-Worker-Retry"][0] != want || (got["Flow-Worker-Redacted"] != nil) != wantFlag {
			t.Errorf("%q: got %q, redacted %q", value, got["Flow-Worker-Retry"], got["Flow-Worker-Redacted"])
		}
	}
}

func wantHidden(t *testing.T, name string, headers map[string][]string, body string) {
	t.Helper()
	got := decoder.DeadLetter(letter(headers, body))
	if text := fmt.Sprint(string(got.Body), got.Headers); strings.Contains(text, secret) || got.Headers[HeaderRedacted] == nil {
		t.Errorf("%s: %s", name, text)
	}
}

// A secret in the wrong place of a refused request must not be kept in the dead letter.
func TestDeadLetterHidesMalformedParameters(t *testing.T) {
	t.Parallel()
	const host = "adb-1.7.azuredatabricks.net"
	for path, values := range map[string][]any{
		"auth.params.domain": {"https://token:" + secret + "@" + host, "https://" + host + "?token=" + secret,
			"https://" + host + "/" + secret, "https://" + host + "#" + secret, "ftp://" + secret, secret, "https://" + host + ":" + secret},
		"auth.params.clusterId": {secret + strings.Repeat("x", 256), "a\x00" + secret, "vault:" + secret},
		"auth.params.database":  {secret + strings.Repeat("x", 256), secret + "\n", "vault:" + secret},
		"auth.params.catalog":   {secret + strings.Repeat("x", 256), "\u0085" + secret, "vault:" + secret},
	} {
		for _, value := range values {
			data := with(t, goodData, map[string]any{path: value})
			wantHidden(t, path, nil, data)
			wantHidden(t, path, nil, structured(t, data, nil))
			wantHidden(t, path, binary(nil), data)
			wantHidden(t, path, nil, structured(t, "{}", map[string]any{"data": absent{},
				"data_base64": base64.StdEncoding.EncodeToString([]byte(data))}))
		}
	}
	pin := decoder.DeadLetter(letter(nil, with(t, goodData, map[string]any{"auth.params.database": 48151623})))
	if strings.Contains(string(pin.Body), "48151623") || pin.Headers[HeaderRedacted] == nil {
		t.Errorf("a number as parameter stays: %s", pin.Body)
	}
}

func TestDeadLetterHidesMalformedAttributes(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"specversion":     {secret},
		"type":            {secret, "a." + secret + " b"},
		"time":            {secret, "2026-11-22T03:00:00Z" + secret},
		"expirytime":      {secret},
		"dataschema":      {secret, "https://u:" + secret + "@example.com", "https://example.com?sig=" + secret, "data:" + secret},
		"datacontenttype": {secret, "application/json; key=" + secret},
		"traceparent":     {secret + "\x01"},
		"id":              {secret + strings.Repeat("x", 256)},
		"source":          {secret + "\x01"},
	} {
		for _, value := range values {
			wantHidden(t, name, nil, structured(t, goodData, map[string]any{name: value}))
			wantHidden(t, "ce-"+name, binary(map[string]string{"ce-" + name: value}), goodData)
		}
	}
	wantHidden(t, "Content-Type", binary(map[string]string{"Content-Type": secret}), goodData)
}

// TestMalformedTraceIsNoLoss: the worker never looked at it, so its dead letter is whole without it and
// comes back as the same request.
func TestMalformedTraceIsNoLoss(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"traceparent": {secret, "", goodParent + "-" + secret},
		"tracestate":  {secret, "a=1," + secret},
	} {
		for _, value := range values {
			for form, c := range map[string]struct {
				headers map[string][]string
				body    string
			}{
				"header":     {binary(map[string]string{name: value}), goodData},
				"binary":     {binary(map[string]string{"ce-" + name: value}), goodData},
				"structured": {nil, structured(t, goodData, map[string]any{name: value})},
			} {
				got := decoder.DeadLetter(letter(c.headers, c.body))
				if text := fmt.Sprint(string(got.Body), got.Headers); strings.Contains(text, secret) || got.Headers[HeaderRedacted] != nil {
					t.Errorf("%s as %s: %s", name, form, text)
				}
				was, is := decoder.Decode("acme", c.headers, []byte(c.body), Meta{}), decoder.Decode("acme", got.Headers, got.Body, Meta{})
				if is.Invalid != nil || is.Request.Fingerprint != was.Request.Fingerprint || is.Request.Key != was.Request.Key {
					t.Errorf("%s as %s came back as %+v", name, form, is)
				}
				if again := decoder.DeadLetter(letter(got.Headers, string(got.Body))); again.Headers[HeaderRedacted] != nil {
					t.Errorf("%s as %s: the second dead letter counts as redacted", name, form)
				}
			}
		}
	}
}

func TestDeadLetterKeepsWellFormedValues(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"specversion": "0.3", "type": "flowworker.connection.create.v2",
		"dataschema": "https://example.com/a#b", "datacontenttype": "text/xml", "traceparent": goodParent,
		"tracestate": "a=1, b@c=x y,", "subject": "s", "id": " é/% "} {
		body := structured(t, goodData, map[string]any{name: value})
		if got := decoder.DeadLetter(letter(nil, body)); string(got.Body) != body || got.Headers[HeaderRedacted] != nil {
			t.Errorf("%s: changed to %s", name, got.Body)
		}
	}
}

func TestDeadLetterContentType(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"application/json":                                "application/json",
		"application/json; charset=UTF-8":                 "application/json; charset=UTF-8",
		"application/json; profile=" + secret:             "application/json",
		"application/json;charset=utf-8;key=" + secret:    "application/json",
		"application/cloudevents+json; charset=" + secret: "application/cloudevents+json",
		secret: "",
	} {
		got := decoder.DeadLetter(letter(head("content-type", in), goodData)).Headers
		if kept := strings.Join(got[HeaderContentType], "|"); kept != want || (got[HeaderRedacted] != nil) != (in != want) {
			t.Errorf("%q: kept %q, redacted %q", in, kept, got[HeaderRedacted])
		}
	}
}

func TestTraceStateForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"a=1": true, "a=1,b=2": true, "a@b=1 2": true, "a=1, ,b=2": true, "": false, ",": false,
		"a": false, "A=1": false, "a=": false, "a=b=c": false, "a=\x01": false, strings.Repeat("a=1,", 33): false} {
		if validTraceState(in) != want {
			t.Errorf("%q: valid %v, want %v", in, !want, want)
		}
	}
}
