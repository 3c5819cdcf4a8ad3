package event

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestDecodeAllFormsAlike(t *testing.T) {
	t.Parallel()
	want := provision.Data{
		Sandbox: "prod", Name: "Databricks connection to Experience Platform", Description: "A Databricks base connection",
		Auth: provision.Auth{SpecName: "Access Token Authentication", Params: provision.Params{
			Domain: "https://adb-1234567890123456.7.azuredatabricks.net", ClusterID: "0601-182128-dcbte59m",
			AccessToken: provision.SecretRef{Path: "databricks/acme", Field: "accessToken"}, Database: "acme-db"}},
		ConnectionSpec: provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"},
	}
	event := structured(t, goodData, nil)
	encoded := structured(t, "{}", map[string]any{"data": absent{}, "data_base64": base64.StdEncoding.EncodeToString([]byte(goodData))})
	var first string
	for name, d := range map[string]provision.Delivery{
		"structured by type":     decode(head("content-type", "application/cloudevents+json; charset=utf-8"), event),
		"structured by body":     decode(nil, event),
		"structured by any type": decode(head("Content-Type", "text/plain"), event),
		"base64":                 decode(nil, encoded),
		"binary":                 decode(binary(nil), goodData),
		"binary, other case":     decode(head("CE-SpecVersion", "1.0", "Ce-Id", "r-1", "ce-Source", "/portal", "CE-TYPE", TypeCreate), goodData),
		"binary, escaped":        decode(binary(map[string]string{"ce-id": "r-1", "ce-subject": "%zz"}), goodData),
	} {
		wantValid(t, d)
		if diff := cmp.Diff(want, d.Request.Data); diff != "" {
			t.Errorf("%s: data (-want +got):\n%s", name, diff)
		}
		if d.Request.Key != (provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}) {
			t.Errorf("%s: key %v", name, d.Request.Key)
		}
		if first == "" {
			first = d.Request.Fingerprint
		}
		if d.Request.Fingerprint != first || len(first) != 64 {
			t.Errorf("%s: fingerprint %q, another has %q", name, d.Request.Fingerprint, first)
		}
		if d.Seq != 42 || d.Delivered != 1 || !d.EnteredAt.Equal(entered) || d.Detached || d.EventSalt != "" {
			t.Errorf("%s: delivery %+v", name, d)
		}
	}
}

func TestDecodeBareNames(t *testing.T) {
	t.Parallel()
	standIn := fmt.Sprintf("seq-%d-42", entered.UnixNano())
	for name, c := range map[string]struct {
		headers    map[string][]string
		body       string
		id, source string
		valid      bool
	}{
		"msg id":                  {head("Nats-Msg-Id", "m-1"), goodData, "m-1", "nats", true},
		"msg id, other case":      {head("nats-msg-id", "m-1"), goodData, "m-1", "nats", true},
		"none":                    {nil, goodData, standIn, "nats", true},
		"empty msg id":            {head("Nats-Msg-Id", ""), goodData, standIn, "nats", true},
		"long msg id":             {head("Nats-Msg-Id", strings.Repeat("x", 257)), goodData, standIn, "nats", false},
		"msg id with control":     {head("Nats-Msg-Id", "a\x01"), goodData, standIn, "nats", false},
		"msg id not UTF-8":        {head("Nats-Msg-Id", "a\xff"), goodData, standIn, "nats", false},
		"two msg ids":             {head("Nats-Msg-Id", "a", "Nats-Msg-Id", "b"), goodData, standIn, "nats", false},
		"not JSON":                {head("Nats-Msg-Id", "m-1"), "nope", "m-1", "nats", false},
		"no id in event":          {head("Nats-Msg-Id", "m-1"), structured(t, goodData, map[string]any{"id": absent{}}), "m-1", "nats", false},
		"number as id":            {nil, structured(t, goodData, map[string]any{"id": 7}), standIn, "nats", false},
		"long id":                 {nil, structured(t, goodData, map[string]any{"id": strings.Repeat("é", 129)}), standIn, "nats", false},
		"longest id":              {nil, structured(t, goodData, map[string]any{"id": strings.Repeat("é", 128)}), strings.Repeat("é", 128), "/portal", true},
		"id with blanks":          {nil, structured(t, goodData, map[string]any{"id": " r "}), " r ", "/portal", true},
		"empty source":            {nil, structured(t, goodData, map[string]any{"source": ""}), "r-1", "nats", false},
		"half surrogate id":       {nil, strings.Replace(structured(t, goodData, nil), `"r-1"`, `"\ud800"`, 1), standIn, "nats", false},
		"two ids":                 {nil, strings.Replace(structured(t, goodData, nil), `"id":"r-1"`, `"id":"r-1","id":"r-2"`, 1), standIn, "nats", false},
		"binary not UTF-8":        {binary(map[string]string{"ce-id": "%FF"}), goodData, standIn, "nats", false},
		"binary id twice":         {head("ce-specversion", "1.0", "ce-type", TypeCreate, "ce-source", "s", "ce-id", "a", "CE-ID", "b"), goodData, standIn, "nats", false},
		"binary without type":     {binary(map[string]string{"ce-type": "-"}), goodData, "r-1", "/portal", false},
		"retry of bare":           {head("ce-id", "m-1", "ce-source", "nats", "Flow-Worker-Retry", "1", "Nats-Msg-Id", "fresh"), goodData, "m-1", "nats", true},
		"retry of structured":     {head("ce-id", "m-1", "ce-source", "nats", "Flow-Worker-Retry", "1"), structured(t, goodData, nil), "m-1", "nats", true},
		"identity alone, no try":  {head("ce-id", "m-1", "ce-source", "nats"), goodData, "m-1", "nats", false},
		"headers beside an event": {binary(map[string]string{"ce-id": "other"}), structured(t, goodData, nil), "r-1", "/portal", true},
		"too large, binary":       {binary(nil), strings.Repeat(" ", DefaultMaxBytes+1), "r-1", "/portal", false},
		"too large, structured":   {nil, structured(t, goodData, nil) + strings.Repeat(" ", DefaultMaxBytes), standIn, "nats", false},
	} {
		d := decode(c.headers, c.body)
		if d.Request.Key.ID != c.id || d.Request.Key.Source != c.source {
			t.Errorf("%s: got id %q source %q, want %q %q", name, d.Request.Key.ID, d.Request.Key.Source, c.id, c.source)
		}
		if (d.Invalid == nil) != c.valid {
			t.Errorf("%s: invalid = %v, want valid = %v", name, d.Invalid, c.valid)
		}
	}
}

func TestDecodeAttributes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"no specversion":    {map[string]any{"specversion": nil}, "/specversion: required"},
		"other specversion": {map[string]any{"specversion": "0.3"}, "/specversion: unsupported version; want 1.0"},
		"no type":           {map[string]any{"type": absent{}}, "/type: required"},
		"other type":        {map[string]any{"type": "other"}, "/type: unsupported type; want flowworker.connection.create.v1"},
		"other version":     {map[string]any{"type": "flowworker.connection.create.v2"}, "/type: unsupported version of this type"},
		"control in id":     {map[string]any{"id": "a\nb"}, "/id: holds the control character U+000A"},
		"bad expiry":        {map[string]any{"expirytime": "tomorrow"}, "/expirytime: not a time"},
		"not JSON data":     {map[string]any{"datacontenttype": "text/xml"}, "/datacontenttype: the data must be JSON"},
		"no data":           {map[string]any{"data": absent{}}, "/data: required"},
		"null data":         {map[string]any{"data": nil}, "/data: required; null is the same as leaving it out"},
		"text as data":      {map[string]any{"data": goodData}, "/data: JSON inside a string; send the object itself"},
		"both data":         {map[string]any{"data_base64": "e30="}, "/data_base64: given beside /data"},
		"bad base64":        {map[string]any{"data": absent{}, "data_base64": "%%"}, "/data_base64: not standard base64"},
		"number as base64":  {map[string]any{"data": absent{}, "data_base64": 1}, "/data_base64: not standard base64"},
		"base64 of no JSON": {map[string]any{"data": absent{}, "data_base64": "bm8="}, "/data_base64: not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantInvalid(t, decode(head("Content-Type", ContentType), structured(t, goodData, c.changes)), provision.ReasonInvalidRequest, c.want)
		})
	}
	wantValid(t, decode(nil, structured(t, goodData, map[string]any{"partitionkey": "x", "sequence": 7, "sampled": true,
		"empty": nil, "subject": "s", "dataschema": "https://example.com", "datacontenttype": "application/vnd.x+json"})))
}

func TestDecodeBodies(t *testing.T) {
	t.Parallel()
	ce := head("Content-Type", ContentType)
	for name, c := range map[string]struct {
		headers map[string][]string
		body    string
		want    string
	}{
		"empty":              {nil, "", "body: empty"},
		"blank":              {ce, " \n", "body: empty"},
		"not JSON":           {nil, "{", "body: not JSON: syntax error at byte"},
		"trailing":           {nil, goodData + "{}", "body: not JSON: syntax error"},
		"invalid UTF-8":      {nil, "{\"name\":\"\xff\"}", "body: not valid UTF-8"},
		"NUL byte":           {nil, "{\"name\":\"a\x00\"}", "body: not JSON"},
		"array event":        {ce, "[]", "body: not a CloudEvent"},
		"array data":         {nil, "[]", "/data: got array, want object"},
		"text data":          {nil, `"text"`, "/data: got string, want object"},
		"number data":        {nil, "1e999999999", "/data: a number outside the range"},
		"null":               {nil, "null", "/data: required; null is the same as leaving it out"},
		"batch":              {head("Content-Type", "application/cloudevents-batch+json"), "[]", "header Content-Type: unsupported event format"},
		"binary not JSON":    {binary(map[string]string{"Content-Type": "text/plain"}), goodData, "/datacontenttype: the data must be JSON"},
		"deep":               {nil, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "body: nested deeper than 64 levels"},
		"very deep":          {nil, strings.Repeat("[", 200000), "body: not JSON"},
		"unknown field":      {nil, with(t, goodData, map[string]any{"oops": secret}), "/data/oops: unknown field"},
		"nested unknown":     {nil, with(t, goodData, map[string]any{"auth.params.token": secret}), "/data/auth/params/token: unknown field"},
		"half surrogate":     {nil, strings.Replace(goodData, "acme-db", `\udc00`, 1), "/data/auth/params/database: holds half a surrogate pair"},
		"half surrogate key": {nil, strings.Replace(goodData, `"sandbox"`, `"\ud800": 1, "sandbox"`, 1), "its name holds half a surrogate pair"},
		"two names":          {nil, strings.Replace(goodData, `"sandbox"`, `"sandbox": "dev", "sandbox"`, 1), "/data/sandbox: given more than once"},
		"two tokens":         {nil, strings.Replace(goodData, `"accessToken"`, `"acces\u0073Token": "vault:a#b", "accessToken"`, 1), "/data/auth/params/accessToken: given more than once"},
		"two data":           {nil, strings.Replace(structured(t, goodData, nil), `"data":`, `"data":{},"data":`, 1), "/data: given more than once"},
		"NUL in name":        {nil, with(t, goodData, map[string]any{"name": "a\x00b"}), "/data/name: holds a control character"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := decode(c.headers, c.body)
			wantInvalid(t, d, provision.ReasonInvalidRequest, c.want)
			if len(d.Request.Fingerprint) != 64 || d.Request.Key.ID == "" {
				t.Errorf("no name or fingerprint: %+v", d.Request)
			}
		})
	}
}

func TestDecodeRefusesTooLargeBeforeParsing(t *testing.T) {
	t.Parallel()
	small := &Decoder{AllowedDomains: decoder.AllowedDomains, MaxBytes: len(goodData)}
	wantValid(t, small.Decode("acme", nil, []byte(goodData), meta))
	// Were it parsed, it would be told that it is no JSON, and of the literal.
	for _, body := range []string{goodData + " ", strings.Repeat("{", len(goodData)+1)} {
		d := small.Decode("acme", nil, []byte(body), meta)
		want := fmt.Sprintf("the request is not valid: body: %d bytes long; at most %d are allowed", len(body), len(goodData))
		if d.Invalid == nil || d.Invalid.Message != want {
			t.Errorf("got %v, want %q alone", d.Invalid, want)
		}
	}
}

func TestDecodeRetry(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int{"0": 0, "1": 1, "12": 12, "999999999": 999999999} {
		d := decode(head("flow-worker-retry", value), goodData)
		wantValid(t, d)
		if d.Request.Retry != want || d.Detached {
			t.Errorf("%q: retry %d, detached %v", value, d.Request.Retry, d.Detached)
		}
	}
	salts := map[string]bool{}
	for _, value := range []string{"", "-1", "+1", "01", "1.0", "x", " 1", "99999999999999999999"} {
		d := decode(head("Flow-Worker-Retry", value), goodData)
		wantInvalid(t, d, provision.ReasonInvalidRequest, "header Flow-Worker-Retry: want one whole number")
		if !d.Detached || d.EventSalt == "" || salts[d.EventSalt] {
			t.Errorf("%q: detached %v, salt %q", value, d.Detached, d.EventSalt)
		}
		salts[d.EventSalt] = true
	}
	wantInvalid(t, decode(head("Flow-Worker-Retry", "1", "flow-worker-retry", "2"), goodData), provision.ReasonInvalidRequest, "header Flow-Worker-Retry")
}

func TestDecodeTrace(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	const other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, c := range map[string]struct {
		headers map[string][]string
		body    string
		want    provision.Trace
	}{
		"headers":          {head("Traceparent", parent, "tracestate", "a=1"), goodData, provision.Trace{Parent: parent, State: "a=1"}},
		"two states":       {head("traceparent", parent, "tracestate", "a=1", "tracestate", "b=2"), goodData, provision.Trace{Parent: parent, State: "a=1,b=2"}},
		"attributes":       {nil, structured(t, goodData, map[string]any{"traceparent": parent, "tracestate": "a=1"}), provision.Trace{Parent: parent, State: "a=1"}},
		"binary":           {binary(map[string]string{"ce-traceparent": parent}), goodData, provision.Trace{Parent: parent}},
		"header wins":      {head("traceparent", parent), structured(t, goodData, map[string]any{"traceparent": other, "tracestate": "a=1"}), provision.Trace{Parent: parent}},
		"attribute stands": {head("traceparent", "junk"), structured(t, goodData, map[string]any{"traceparent": other}), provision.Trace{Parent: other}},
		"state alone":      {head("tracestate", "a=1"), goodData, provision.Trace{}},
		"state too long":   {head("traceparent", parent, "tracestate", strings.Repeat("a", 513)), goodData, provision.Trace{Parent: parent}},
		"upper case":       {head("traceparent", strings.ToUpper(parent)), goodData, provision.Trace{}},
		"zero ids":         {head("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"), goodData, provision.Trace{}},
		"version ff":       {head("traceparent", "ff"+parent[2:]), goodData, provision.Trace{}},
		"more in 00":       {head("traceparent", parent+"-x"), goodData, provision.Trace{}},
		"more in 01":       {head("traceparent", "01"+parent[2:]+"-x"), goodData, provision.Trace{Parent: "01" + parent[2:] + "-x"}},
		"line break":       {head("traceparent", parent+"\r\nX: y"), goodData, provision.Trace{}},
	} {
		d := decode(c.headers, c.body)
		wantValid(t, d)
		if d.Request.Trace != c.want {
			t.Errorf("%s: got %+v, want %+v", name, d.Request.Trace, c.want)
		}
	}
}

func TestDecodeExpiry(t *testing.T) {
	t.Parallel()
	d := decode(nil, structured(t, goodData, map[string]any{"expirytime": "2026-11-22T05:00:00.5+02:00"}))
	wantValid(t, d)
	if want := time.Date(2026, 11, 22, 3, 0, 0, 5e8, time.UTC); !d.Request.Expiry.Equal(want) {
		t.Errorf("expiry %v, want %v", d.Request.Expiry, want)
	}
	if d := decode(nil, structured(t, goodData, map[string]any{"expirytime": "0001-01-01T00:00:00Z"})); d.Request.Expiry.IsZero() {
		t.Error("the earliest time counts as none")
	}
	if d := decode(nil, goodData); !d.Request.Expiry.IsZero() {
		t.Errorf("expiry %v out of nothing", d.Request.Expiry)
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	print := func(headers map[string][]string, body string) string {
		return decode(headers, body).Request.Fingerprint
	}
	base := print(nil, goodData)
	same := map[string]string{
		"other order":      with(t, goodData, nil),
		"other escapes":    strings.Replace(goodData, "prod", `pr\u006fd`, 1),
		"other attributes": structured(t, goodData, map[string]any{"id": "r-2", "time": absent{}}),
	}
	for name, body := range same {
		if print(nil, body) != base {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	for name, body := range map[string]string{
		"other value":   strings.Replace(goodData, "prod", "dev", 1),
		"two names":     strings.Replace(goodData, `"sandbox"`, `"sandbox":"prod","sandbox"`, 1),
		"not parseable": goodData + "x",
	} {
		if print(nil, body) == base {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
	if print(nil, "{") == print(nil, "[") {
		t.Error("all that cannot be parsed has one fingerprint")
	}
	none := map[string]any{"data": absent{}}
	if a, b := print(nil, structured(t, goodData, none)), print(nil, structured(t, goodData, map[string]any{"data": absent{}, "time": absent{}})); a != b {
		t.Error("absent data has more than one fingerprint")
	}
}

func TestUnreadIsNamedByTheStandIns(t *testing.T) {
	t.Parallel()
	why := provision.Fail(provision.ReasonInternal, "a bug")
	meta := Meta{Seq: 7, Timestamp: entered, Delivered: 3}
	for name, c := range map[string]struct {
		headers map[string][]string
		id      string
	}{
		"no header":         {nil, "seq-1795316400000000123-7"},
		"message id":        {head("nats-msg-id", "m-1"), "m-1"},
		"its own is unread": {head("ce-id", "own", "ce-source", "/own", "Flow-Worker-Retry", "2"), "seq-1795316400000000123-7"},
		"unusable":          {head("Nats-Msg-Id", "a\x01"), "seq-1795316400000000123-7"},
	} {
		sum := sha256.Sum256([]byte(goodData))
		want := provision.Delivery{
			Request: provision.Request{Key: provision.Key{Tenant: "acme", Source: "nats", ID: c.id}, Fingerprint: hex.EncodeToString(sum[:])},
			Invalid: why, Seq: 7, Delivered: 3, EnteredAt: entered,
		}
		if diff := cmp.Diff(want, Unread("acme", c.headers, []byte(goodData), meta, why)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Every field of Data arrives: one that is new in the type must be read, too.
func TestDecodeDataReadsEveryField(t *testing.T) {
	t.Parallel()
	body := with(t, goodData, map[string]any{"auth.params.catalog": "main", "ifExists": "adopt"})
	got := decode(nil, body).Request.Data
	var want provision.Data
	if err := json.Unmarshal([]byte(body), &want); err != nil {
		t.Fatal(err)
	}
	want.Auth.Params.AccessToken = provision.SecretRef{Path: "databricks/acme", Field: "accessToken"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	everyFieldSet(t, "data", reflect.ValueOf(got))
}

func everyFieldSet(t *testing.T, at string, v reflect.Value) {
	t.Helper()
	for i := range v.NumField() {
		name, field := at+"."+v.Type().Field(i).Name, v.Field(i)
		switch {
		case field.Kind() == reflect.Struct && field.Type() != reflect.TypeFor[provision.SecretRef]():
			everyFieldSet(t, name, field)
		case field.IsZero():
			t.Errorf("%s is not read", name)
		}
	}
}

func TestMediaTypeAgreesWithMime(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "application/json", " Application/CloudEvents+JSON ; charset=UTF-8", "text/plain;a=b;a=c",
		"text/plain; a", "application/json;", ";", "no type", "a/b/c", "application/json; charset=\"", "\tTEXT/json\t;v=1"} {
		want, _, err := mime.ParseMediaType(value)
		if got := (headers{"content-type": {value}}).mediaType(); err == nil && got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// BenchmarkDecode reads a request as a portal would send it.
func BenchmarkDecode(b *testing.B) {
	body, headers := []byte(structured(b, goodData, nil)), head(HeaderContentType, ContentType)
	b.ReportAllocs()
	for b.Loop() {
		if d := decoder.Decode("acme", headers, body, meta); d.Invalid != nil {
			b.Fatal(d.Invalid)
		}
	}
}

// otherBindings returns a binary event's headers as a bridge from Kafka, AMQP or JMS leaves them.
func otherBindings() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for _, prefix := range []string{"ce_", "Ce_", "CE_", "cloudEvents_"} {
		out[prefix] = map[string][]string{}
		for name, values := range binary(nil) {
			if attr, ok := strings.CutPrefix(strings.ToLower(name), attributePrefix); ok {
				name = prefix + attr
			}
			out[prefix][name] = values
		}
	}
	return out
}

// A request that comes over a bridge from another broker keeps its identity, and so does its dead letter.
func TestHeadersOfOtherBindings(t *testing.T) {
	t.Parallel()
	want := decode(binary(map[string]string{"ce-id": "order%20100%25"}), goodData)
	for prefix, headers := range otherBindings() {
		headers[prefix+"id"] = []string{"order%20100%25"}
		got := decode(headers, goodData)
		if diff := cmp.Diff(want, got); diff != "" || got.Invalid != nil || got.Request.Key.ID != "order 100%" {
			t.Errorf("%s: %s", prefix, diff)
		}
		kept := decoder.DeadLetter(letter(headers, goodData)).Headers
		if kept["ce-id"] == nil || kept["ce-source"] == nil || kept["ce-type"] == nil || kept["ce-specversion"] == nil || kept[HeaderRedacted] != nil {
			t.Errorf("%s: a dead letter keeps %v", prefix, kept)
		}
		both := maps.Clone(headers)
		maps.Copy(both, binary(map[string]string{"ce-id": "order%20100%25"}))
		if diff := cmp.Diff(want, decode(both, goodData)); diff != "" {
			t.Errorf("%s and ce-, the same: %s", prefix, diff)
		}
		maps.Copy(both, binary(map[string]string{"ce-id": "other"}))
		wantInvalid(t, decode(both, goodData), provision.ReasonInvalidRequest, "/id: given more than once", prefix+"id", "ce-id")
		retry := map[string][]string{HeaderRetry: {"2"}, prefix + "id": {"a"}, prefix + "source": {"b"}}
		if got := decode(retry, goodData).Request; got.Key.ID != "a" || got.Key.Source != "b" || got.Retry != 2 {
			t.Errorf("%s: a retry is %+v", prefix, got)
		}
	}
}
