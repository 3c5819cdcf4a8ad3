package event

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// knownFields are all strings of a request's data but the reference, by their paths.
var knownFields = []string{"sandbox", "name", "description", "auth.specName", "auth.params.domain", "auth.params.clusterId", "auth.params.database",
	"auth.params.catalog", "connectionSpec.id", "connectionSpec.version", "ifExists"}

func pointerOf(path string) string { return "/data/" + strings.ReplaceAll(path, ".", "/") }

// forms returns a request as it may be sent, by the name of the form.
func forms(t testing.TB, data string) map[string]Letter {
	t.Helper()
	return map[string]Letter{
		"bare":       letter(nil, data),
		"structured": letter(nil, structured(t, data, nil)),
		"binary":     letter(binary(nil), data),
		"base64": letter(nil, structured(t, "{}", map[string]any{"data": absent{},
			"data_base64": base64.StdEncoding.EncodeToString([]byte(data))})),
	}
}

// told returns everything that is made of a message: what the worker goes on with, and the dead letter.
func told(l Letter) (provision.Delivery, Message, string) {
	d := decode(l.Headers, string(l.Body))
	if l.Key = d.Request.Key; d.Invalid != nil {
		l.Reason = d.Invalid.Reason
	}
	dead := decoder.DeadLetter(l)
	body := string(dead.Body)
	var event struct {
		Data []byte `json:"data_base64"`
	}
	_ = json.Unmarshal(dead.Body, &event) // most have none
	return d, dead, fmt.Sprintf("%+v %v %v %s %s", d, d.Invalid, dead, body, event.Data)
}

func TestTokenInAKnownFieldIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range knownFields {
		for issuer, token := range canary.Tokens() {
			for _, value := range []string{token, "see " + token + ", please"} {
				if path == "auth.params.domain" && issuer == "address" {
					continue // user info in a domain has a rule of its own
				}
				for form, l := range forms(t, with(t, goodData, map[string]any{path: value})) {
					d, dead, text := told(l)
					if wantInvalid(t, d, provision.ReasonPlaintextSecret, pointerOf(path)+": holds what looks like a token"); strings.Contains(text, token) {
						t.Errorf("%s, %s, %s: told in %s", path, issuer, form, text)
					}
					if dead.Headers[HeaderRedacted] == nil || !strings.Contains(text, provision.Redacted) {
						t.Errorf("%s, %s, %s: not said to be redacted: %s", path, issuer, form, text)
					}
				}
			}
		}
	}
}

// Where there are no words around it, a token is refused as a host, as a part of one, and as a reference.
func TestTokenWithinAKnownFieldIsRefused(t *testing.T) {
	t.Parallel()
	const token = "dapi0123456789abcdef0123456789abcdef"
	for path, value := range map[string]string{
		"auth.params.domain": "https://" + token + ".azuredatabricks.net", "auth.params.clusterId": "0601-182128-" + token,
		"name": "prod_" + token + "_eu", "sandbox": token, "auth.params.accessToken": "vault:databricks/" + token + "#accessToken",
	} {
		for form, l := range forms(t, with(t, goodData, map[string]any{path: value})) {
			d, dead, text := told(l)
			wantInvalid(t, d, provision.ReasonPlaintextSecret, pointerOf(path)+": ")
			if strings.Contains(text, token) || dead.Headers[HeaderRedacted] == nil {
				t.Errorf("%s as %s: %s", path, form, text)
			}
		}
	}
}

// A token as an attribute that is read makes the message one whose identity can't be read; in another it is not told.
func TestTokenInAnAttributeIsRefused(t *testing.T) {
	t.Parallel()
	standIn := fmt.Sprintf("seq-%d-42", entered.UnixNano())
	for name, key := range map[string]provision.Key{
		"id": {Tenant: "acme", Source: "nats", ID: standIn}, "source": {Tenant: "acme", Source: "nats", ID: "r-1"},
		"subject": {}, "type": {}, "dataschema": {}, "datacontenttype": {}, "specversion": {}, "time": {}, "expirytime": {},
	} {
		if key.ID == "" {
			key = provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}
		}
		for issuer, token := range canary.Tokens() {
			for form, l := range map[string]Letter{
				"structured": letter(nil, structured(t, goodData, map[string]any{name: token})),
				"binary":     letter(binary(map[string]string{"ce-" + name: EncodeHeader(token)}), goodData),
				"retry":      letter(binary(map[string]string{"ce-" + name: EncodeHeader(token), "Flow-Worker-Retry": "1"}), goodData),
			} {
				d, dead, text := told(l)
				if readsAttribute(name) {
					wantInvalid(t, d, provision.ReasonPlaintextSecret, "/"+name+": holds what looks like a token")
				} else {
					wantValid(t, d)
				}
				if d.Request.Key != key {
					t.Errorf("%s, %s, %s: named %+v", name, issuer, form, d.Request.Key)
				}
				if strings.Contains(text, token) || strings.Contains(text, EncodeHeader(token)) || dead.Headers[HeaderRedacted] == nil {
					t.Errorf("%s, %s, %s: %s", name, issuer, form, text)
				}
			}
		}
	}
}

func TestTokenAsMessageIDIsRefused(t *testing.T) {
	t.Parallel()
	for issuer, token := range canary.Tokens() {
		d, _, text := told(letter(head("Nats-Msg-Id", token), goodData))
		wantInvalid(t, d, provision.ReasonPlaintextSecret, "header Nats-Msg-Id: holds what looks like a token")
		if strings.Contains(text, token) || !strings.HasPrefix(d.Request.Key.ID, "seq-") {
			t.Errorf("%s: %s", issuer, text)
		}
		wantValid(t, decode(head("Nats-Msg-Id", token), structured(t, goodData, nil))) // names nothing there
	}
}

// What nobody looks at, and a trace context, are no reason to refuse a request; but a token in them goes nowhere.
func TestTokenWhereNobodyLooksIsNotTold(t *testing.T) {
	t.Parallel()
	for issuer, token := range canary.Tokens() {
		for where, l := range map[string]Letter{
			"extension":            letter(nil, structured(t, goodData, map[string]any{"authorization": token})),
			"extension header":     letter(binary(map[string]string{"ce-authorization": token}), goodData),
			"tracestate":           letter(binary(map[string]string{"traceparent": goodParent, "tracestate": "a=" + token}), goodData),
			"tracestate attribute": letter(nil, structured(t, goodData, map[string]any{"traceparent": goodParent, "tracestate": "a=" + token})),
			"traceparent":          letter(binary(map[string]string{"traceparent": "01" + goodParent[2:] + "-" + token}), goodData),
			"media type":           letter(head("Content-Type", "application/"+token), goodData),
			"header":               letter(head("Authorization", token, token, "x"), goodData),
		} {
			d, dead, text := told(l)
			if wantValid(t, d); strings.Contains(text, token) {
				t.Errorf("%s as %s: %s", issuer, where, text)
			}
			if hidden := dead.Headers[HeaderRedacted] != nil; hidden != (strings.HasPrefix(where, "extension") || where == "media type") {
				t.Errorf("%s as %s: redacted %v: %s", issuer, where, hidden, text)
			}
		}
	}
}

func TestTokenAsANameIsNotTold(t *testing.T) {
	t.Parallel()
	for issuer, token := range canary.Tokens() {
		for where, l := range map[string]Letter{
			"field":      letter(nil, strings.Replace(goodData, `{`, `{`+quote(t, token)+`:1,`, 1)),
			"parameter":  letter(nil, strings.Replace(goodData, `"domain"`, quote(t, strings.Repeat("x", 50)+" "+token)+`:"a","domain"`, 1)),
			"attribute":  letter(nil, strings.Replace(structured(t, goodData, nil), `{`, `{`+quote(t, token)+`:"1",`, 1)),
			"ce- header": letter(binary(map[string]string{"ce-" + token: "1"}), goodData),
		} {
			if where == "ce- header" && token != strings.ToLower(token) {
				continue // names of headers are read in lower case, which spoils such a token
			}
			d, dead, text := told(l)
			if strings.Contains(text, token) || dead.Headers[HeaderRedacted] == nil {
				t.Errorf("%s as %s: %s", issuer, where, text)
			}
			if where == "field" || where == "parameter" {
				wantInvalid(t, d, provision.ReasonInvalidRequest, "[reda", ": unknown field")
			}
		}
	}
}

// innocent are values that look like secrets to the hasty.
var innocent = []string{"0601-182128-dcbte59m", "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "9f2c4b5e8d7a6c3b2a1f0e9d8c7b6a594837261509f8e7d6c5b4a39281706f5e",
	"01JD9Z7Q8W3E4R5T6Y7U8I9O0P", "A connection with bearer authentication", "basic characterization of a dose", "https://host.example/a?b=c@d",
	"eyJpZCI6IjEyMzQ1Njc4OTAiLCJuIjoxfQ", "p8e-production-cluster-name", "https://user@host.example/portal", "urn:uuid:e9d7ec6b-0873-4e57-ad21-b3a7c65e310b",
	"see http://grafana:3000?orgId=1&user=ada@example.com for details", "https://idp.example.com:8443?login_hint=ada@example.com",
	"jdbc:sqlserver://srv.database.windows.net:1433;database=x;user=ada@srv", "https://portal.example.com:8443?user=ada@example.com", "urn://portal:onboarding@2026",
	"oci://registry.local:5000@v2", "hvs.Databricks-Production-EU", "p8e-databricks-production-2026", "Do not paste a -----BEGIN PRIVATE KEY----- block here",
	"(Bearer Databricks2Experience4Platform)",
	"hive_metastore", "dapi-team", "日本 ä €", "SGVsbG8gV29ybGQsIGhlbGxvIHdvcmxkIQ=="}

func TestInnocentValuesPass(t *testing.T) {
	t.Parallel()
	for _, value := range innocent {
		data := with(t, goodData, map[string]any{"name": value, "description": "With " + value + ".", "auth.specName": value, "auth.params.clusterId": value,
			"auth.params.database": value, "auth.params.catalog": value, "connectionSpec.version": value[:min(len(value), 64)]})
		body := structured(t, data, map[string]any{"id": value, "source": value, "subject": value, "tracestate": "a=1", "anything": value})
		d, dead, _ := told(letter(nil, body))
		wantValid(t, d)
		if d.Request.Key.ID != value || d.Request.Key.Source != value {
			t.Errorf("%q is named %+v", value, d.Request.Key)
		}
		body = structured(t, data, map[string]any{"id": value, "source": value, "subject": value})
		if _, dead, _ = told(letter(nil, body)); string(dead.Body) != body || dead.Headers[HeaderRedacted] != nil {
			t.Errorf("%q: the dead letter is %s", value, dead.Body)
		}
	}
}

// everyString returns the JSON with each of its strings, names included, replaced in turn.
func everyString(t testing.TB, text, with string) (out []string) {
	t.Helper()
	root, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	put := func(from, to int) { out = append(out, text[:from]+quote(t, with)+text[to:]) }
	var walk func(*node)
	walk = func(n *node) {
		if n.kind == kindString {
			put(n.start, n.end)
		}
		for _, each := range n.members {
			put(each.start, each.end)
			walk(each.value)
		}
	}
	walk(root)
	return out
}

// fullRequests are requests with everything that one may have.
func fullRequests(t testing.TB) []string {
	t.Helper()
	data := with(t, goodData, map[string]any{"auth.params.catalog": "c", "ifExists": "adopt"})
	return []string{data, structured(t, data, map[string]any{"subject": "s", "dataschema": "https://a.example/b", "expirytime": "2026-11-23T00:00:00Z",
		"traceparent": goodParent, "tracestate": "a=1", "extension": "e"})}
}

// wantUntold checks that nothing that is made of the body tells the token.
func wantUntold(t *testing.T, issuer, token, body string) {
	t.Helper()
	if _, _, text := told(letter(nil, body)); strings.Contains(text, token) {
		t.Fatalf("%s: %s\nis told in %s", issuer, body, text)
	}
}

// TestTokenAnywhereIsNotTold puts tokens in the place of every string of a request, values and names, and into what is
// said with a retry of it.
func TestTokenAnywhereIsNotTold(t *testing.T) {
	t.Parallel()
	for issuer, token := range canary.Tokens() {
		for _, text := range fullRequests(t) {
			for _, body := range everyString(t, text, token) {
				wantUntold(t, issuer, token, body)
			}
		}
		for _, said := range []string{"connection=%s&by=a&why=x", "absent=true&by=%s&why=x", "absent=true&by=a&why=%s", "absent=%s&by=a&why=x", "%s=true&by=a&why=x"} {
			said = fmt.Sprintf(said, url.QueryEscape(token))
			if d, _, text := told(letter(head(HeaderResolve, said, HeaderRetry, "1"), goodData)); strings.Contains(text, token) || strings.Contains(text, url.QueryEscape(token)) || d.Invalid == nil {
				t.Errorf("%s: %s is told in %s", issuer, said, text)
			}
		}
	}
}

// FuzzTokenAnywhere puts a token between two texts in the place of one of those strings.
func FuzzTokenAnywhere(f *testing.F) {
	for i, around := range [][2]string{{"a ", " z"}, {"vault:", "#x"}, {"https://", ".azuredatabricks.net"}, {"\x00", "\n"}, {"bearer ", `"\`}, {"a=", ",b=c"}} {
		f.Add(around[0], around[1], uint(i), uint(11*i))
	}
	requests := fullRequests(f)
	f.Fuzz(func(t *testing.T, before, after string, which, where uint) {
		all := canary.Tokens()
		issuer := slices.Sorted(maps.Keys(all))[which%uint(len(all))]
		value := strings.ToValidUTF8(before+all[issuer]+after, "\uFFFD")
		if !scrub.HoldsToken(value) {
			t.Skip() // "a" before a web token makes another word of it
		}
		bodies := everyString(t, requests[where%2], value)
		wantUntold(t, issuer, all[issuer], bodies[where/2%uint(len(bodies))])
	})
}
