package event

import (
	"encoding/base64"
	byteorder "encoding/binary"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const mark = "\xef\xbb\xbf"

// inBase64 returns an event with its data as data_base64.
func inBase64(t testing.TB, data string) string {
	t.Helper()
	return structured(t, "{}", map[string]any{"data": absent{}, "data_base64": base64.StdEncoding.EncodeToString([]byte(data))})
}

// sameRequest checks that two messages are one request with the same data, and that a dead letter keeps the second as
// it came.
func sameRequest(t testing.TB, name string, a, b Letter) {
	t.Helper()
	was, is := decode(a.Headers, string(a.Body)), decode(b.Headers, string(b.Body))
	if diff := cmp.Diff(was, is); diff != "" || is.Invalid != nil {
		t.Errorf("%s (-usual +this): %s\n%v", name, diff, is.Invalid)
	}
	if dead := decoder.DeadLetter(b); string(dead.Body) != string(b.Body) || dead.Headers[HeaderRedacted] != nil {
		t.Errorf("%s: the dead letter is %q %v", name, dead.Body, dead.Headers)
	}
}

func TestByteOrderMarkIsSkipped(t *testing.T) {
	t.Parallel()
	ce := head("Content-Type", ContentType)
	for name, c := range map[string]struct {
		headers map[string][]string
		body    string
	}{
		"bare": {nil, goodData}, "binary": {binary(nil), goodData}, "structured": {ce, structured(t, goodData, nil)}, "structured by its body": {nil, structured(t, goodData, nil)},
		"blanks behind it": {nil, "\r\n " + goodData},
	} {
		sameRequest(t, name, letter(c.headers, c.body), letter(c.headers, mark+c.body))
	}
	sameRequest(t, "within base64", letter(nil, structured(t, goodData, nil)), letter(nil, inBase64(t, mark+goodData)))

	literal := strings.Replace(goodData, "vault:databricks/acme#accessToken", secret, 1)
	for name, l := range map[string]Letter{"bare": letter(nil, mark+literal), "structured": letter(nil, mark+structured(t, literal, nil)), "base64": letter(nil, mark+inBase64(t, mark+literal))} {
		d, dead, text := told(l)
		wantInvalid(t, d, provision.ReasonPlaintextSecret, "/data/auth/params/accessToken")
		if strings.Contains(text, secret) || !strings.HasPrefix(string(dead.Body), mark+"{") || dead.Headers[HeaderRedacted] == nil {
			t.Errorf("%s: %s", name, text)
		}
		if again := decode(nil, string(dead.Body)); again.Request.Key != d.Request.Key {
			t.Errorf("%s: the dead letter is another request's: %+v", name, again.Request.Key)
		}
	}
	for _, body := range []string{mark, mark + " ", mark + mark + goodData, "{" + mark + goodData[1:], goodData + mark} {
		if d := decode(nil, body); d.Invalid == nil {
			t.Errorf("%.20q is taken", body)
		}
	}
}

// otherEncodings returns the text in the encodings that are refused by name.
func otherEncodings(text string) map[string][]string {
	in16 := func(order byteorder.AppendByteOrder, mark string) string {
		out := []byte(mark)
		for _, c := range utf16.Encode([]rune(text)) {
			out = order.AppendUint16(out, c)
		}
		return string(out)
	}
	in32 := func(order byteorder.AppendByteOrder, mark string) string {
		out := []byte(mark)
		for _, c := range text {
			out = order.AppendUint32(out, uint32(c))
		}
		return string(out)
	}
	return map[string][]string{
		"UTF-16 (little-endian)": {in16(byteorder.LittleEndian, "\xff\xfe"), in16(byteorder.LittleEndian, "")},
		"UTF-16 (big-endian)":    {in16(byteorder.BigEndian, "\xfe\xff"), in16(byteorder.BigEndian, "")},
		"UTF-32 (little-endian)": {in32(byteorder.LittleEndian, "\xff\xfe\x00\x00"), in32(byteorder.LittleEndian, "")},
		"UTF-32 (big-endian)":    {in32(byteorder.BigEndian, "\x00\x00\xfe\xff"), in32(byteorder.BigEndian, "")},
	}
}

func TestOtherEncodingsAreNamed(t *testing.T) {
	t.Parallel()
	for name, texts := range otherEncodings(goodData) {
		for _, text := range texts {
			want := "in " + name + "; want UTF-8"
			wantInvalid(t, decode(nil, text), provision.ReasonInvalidRequest, "body: "+want, "iconv -f UTF-")
			wantInvalid(t, decode(binary(nil), text), provision.ReasonInvalidRequest, "body: "+want)
			wantInvalid(t, decode(head("Content-Type", ContentType), text), provision.ReasonInvalidRequest, "body: "+want)
			wantInvalid(t, decode(nil, inBase64(t, text)), provision.ReasonInvalidRequest, "/data_base64: "+want)
			if dead := decoder.DeadLetter(letter(nil, text)); string(dead.Body) != string(digestOf([]byte(text))) || dead.Headers[HeaderRedacted] == nil {
				t.Errorf("%s: kept %q", name, dead.Body)
			}
		}
	}
	for _, text := range []string{"", "{", "{}", mark + "{}", "\x00", "\x00\x00", "é", "\xff", "\xfe"} {
		if _, err := PlainText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNullIsAbsent(t *testing.T) {
	t.Parallel()
	bare := with(t, goodData, map[string]any{"description": absent{}})
	nulls := with(t, goodData, map[string]any{"description": nil, "auth.params.catalog": nil, "ifExists": nil})
	for name, l := range map[string]Letter{
		"bare": letter(nil, nulls), "binary": letter(binary(nil), nulls), "structured": letter(nil, structured(t, nulls, nil)), "base64": letter(nil, inBase64(t, nulls)),
		"attributes":          letter(nil, structured(t, nulls, map[string]any{"time": nil, "subject": nil, "expirytime": nil, "datacontenttype": nil, "dataschema": nil, "traceparent": nil, "tracestate": nil, "data_base64": nil})),
		"data beside base64":  letter(nil, with(t, inBase64(t, nulls), map[string]any{"data": nil})),
		"extension":           letter(nil, structured(t, nulls, map[string]any{"partitionkey": nil})),
		"blanks around nulls": letter(nil, strings.ReplaceAll(nulls, "null", " \n null\t")),
	} {
		usual := letter(l.Headers, bare)
		if strings.Contains(string(l.Body), "specversion") {
			usual = letter(l.Headers, structured(t, bare, nil))
		}
		if name == "extension" { // of an unknown attribute nothing is kept
			if a, b := decode(nil, string(usual.Body)), decode(nil, string(l.Body)); a.Request.Fingerprint != b.Request.Fingerprint || b.Invalid != nil {
				t.Errorf("%s: %+v", name, b)
			}
			continue
		}
		sameRequest(t, name, usual, l)
	}
	for path, value := range map[string]any{"sandbox": nil, "name": nil, "auth": nil, "auth.specName": nil, "auth.params": nil, "auth.params.domain": nil, "auth.params.clusterId": nil,
		"auth.params.accessToken": nil, "auth.params.database": nil, "connectionSpec": nil, "connectionSpec.id": nil, "connectionSpec.version": nil} {
		d := decode(nil, with(t, goodData, map[string]any{path: value}))
		wantInvalid(t, d, provision.ReasonInvalidRequest, pointerOf(path)+": required; null is the same as leaving it out")
	}
	for _, name := range []string{"id", "source", "type", "specversion"} {
		wantInvalid(t, decode(head("Content-Type", ContentType), structured(t, goodData, map[string]any{name: nil})), provision.ReasonInvalidRequest, "/"+name+": required")
	}
	// Nothing else than an optional field is dropped.
	seen := map[string]string{}
	for name, text := range map[string]string{"usual": bare, "unknown": with(t, bare, map[string]any{"oops": nil}), "empty": with(t, bare, map[string]any{"description": ""}), "text": with(t, bare, map[string]any{"description": "null"}),
		"required": with(t, bare, map[string]any{"name": nil}), "elsewhere": with(t, bare, map[string]any{"auth.description": nil}), "twice": strings.Replace(bare, "{", `{"description":null,"description":null,`, 1)} {
		print := decode(nil, text).Request.Fingerprint
		if seen[print] != "" {
			t.Errorf("%s has the fingerprint of %s", name, seen[print])
		}
		seen[print] = name
	}
}

// TestAttributesNobodyReadsCostNothing: whatever they are called and hold, and however often they are given.
func TestAttributesNobodyReadsCostNothing(t *testing.T) {
	t.Parallel()
	usual := decode(nil, structured(t, goodData, nil))
	check := func(name string, l Letter) {
		t.Helper()
		d, _, text := told(l)
		if wantValid(t, d); d.Request.Key != usual.Request.Key || d.Request.Fingerprint != usual.Request.Fingerprint || strings.Contains(text, secret) {
			t.Errorf("%s: %+v", name, d.Request)
		}
	}
	for _, name := range []string{"example-extension", "partitionKey", "Partition_Key", "ID2", "Source", "com:example/x", "é", "", " ", "a\x00/~b", "x" + strings.Repeat("y", 300), "time", "subject", "dataschema", "Time", "data_Base64", "Data", secret} {
		for _, value := range []any{"", "x", " ", "a\x00\n", "ü\u0085", secret, "see " + secret, strings.Repeat("x", 10_000), 7, -1.5e3, true, false, []any{}, []any{1, "x", nil}, map[string]any{"a": map[string]any{"token": secret}}, strings.Repeat("1", 70)} {
			check(name, letter(nil, structured(t, goodData, map[string]any{name: value})))
			if text, ok := value.(string); ok && name != "Source" && utf8.ValidString(name) {
				check("ce-"+name, letter(binary(map[string]string{"ce-" + name: text}), goodData))
				check("ce-"+name+", encoded", letter(binary(map[string]string{"Ce-" + name: EncodeHeader(text)}), goodData))
			}
		}
	}
	event := structured(t, goodData, nil)
	for name, more := range map[string]string{
		"given twice": `"x":1,"x":"` + secret + `",`, "given twice, read by nobody": `"time":"a","time":"b",`, "half a surrogate pair": `"x":"\ud800","\udc00":1,"subject":"\ud800",`, "names twice within": `"x":{"a":1,"a":2},`,
		"a huge number": `"x":1e999999,"y":` + strings.Repeat("9", 500) + `,`, "deep": `"x":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,`, "large": `"x":[` + strings.Repeat("1,", 5000) + `1],`,
	} {
		check(name, letter(nil, "{"+more+event[1:]))
	}
	twice := binary(nil)
	twice["ce-time"], twice["CE-Time"], twice["ce-x"], twice["ce-bad"] = []string{"a", "b"}, []string{secret}, []string{"a", secret}, []string{"%FF\xff%00"}
	check("headers given twice", letter(twice, goodData))
}

func TestMediaTypesAreReadWithoutCaseAndParameters(t *testing.T) {
	t.Parallel()
	for _, media := range []string{"application/json", "APPLICATION/JSON", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\"; profile=x", " Application/Vnd.Acme+JSON ", "text/json"} {
		wantValid(t, decode(binary(map[string]string{"Content-Type": media}), goodData))
		wantValid(t, decode(binary(map[string]string{"ce-datacontenttype": media}), goodData))
		wantValid(t, decode(nil, structured(t, goodData, map[string]any{"datacontenttype": media})))
	}
	for _, media := range []string{"application/cloudevents+json", "application/cloudevents+json; charset=UTF-8", "Application/CloudEvents+JSON;charset=utf-8", "application/cloudevents"} {
		wantValid(t, decode(head("content-TYPE", media), structured(t, goodData, nil)))
	}
}

// headerValues are values of ce- headers and what they say. The first are those of senders that encode.
var headerValues = []struct{ raw, want string }{
	{"r-1", "r-1"}, {"a%20b", "a b"}, {"%22x%22", `"x"`}, {"100%25", "100%"}, {"a%2541", "a%41"}, {"caf%C3%A9", "café"}, {"caf%c3%a9", "café"}, {"%E2%82%AC", "€"}, {"%F0%9F%98%80", "😀"}, {"%2525", "%25"}, {"%20", " "},
	// Senders that don't.
	{"order%2F123", "order%2F123"}, {"100%", "100%"}, {"a%41", "a%41"}, {"50%/x", "50%/x"}, {"%", "%"}, {"%%", "%%"}, {"%2", "%2"}, {"%zz", "%zz"}, {"%2f", "%2f"}, {"%21", "%21"}, {"%7E", "%7E"}, {"%23%24%26", "%23%24%26"},
	{"a b", "a b"}, {"café", "café"}, {`"x"`, `"x"`}, {"%+1", "%+1"}, {"% 20", "% 20"}, {"%%20", "% "}, {"%E2%82%AC%2F", "€%2F"}, {"urn:a%3Ab", "urn:a%3Ab"}, {"a+b", "a+b"}, {"%u00e9", "%u00e9"},
}

func TestHeadersAreDecodedWhereTheyAreEncoded(t *testing.T) {
	t.Parallel()
	for _, c := range headerValues {
		for _, name := range []string{"ce-id", "Ce-Id", "CE-ID"} {
			d := decode(head("ce-specversion", "1.0", "ce-type", TypeCreate, "CE-Source", c.raw, name, c.raw), goodData)
			if wantValid(t, d); d.Request.Key.ID != c.want || d.Request.Key.Source != c.want {
				t.Errorf("%s: %q names %+v, want %q", name, c.raw, d.Request.Key, c.want)
			}
		}
		if back, err := unescape(EncodeHeader(c.want)); err != nil || back != c.want {
			t.Errorf("%q encoded is read as %q, %v", c.want, back, err)
		}
	}
	if got := EncodeHeader("é \"%\x7f!~/a"); got != "%C3%A9%20%22%25%7F!~/a" {
		t.Errorf("encoded as %q", got)
	}
	for raw, want := range map[string]string{"": "/id: 0 bytes long; want 1 to 256", "%FF": "/id: not UTF-8 after percent-decoding", "\xff": "/id: not UTF-8", "%ED%A0%80": "/id: not UTF-8", "%C0%AF": "/id: not UTF-8", "a%00b": "U+0000", "a%0Ab": "U+000A", "%7F": "U+007F", "%C2%85": "U+0085"} {
		d := decode(binary(map[string]string{"ce-id": raw}), goodData)
		if wantInvalid(t, d, provision.ReasonInvalidRequest, want); !strings.HasPrefix(d.Request.Key.ID, "seq-") || d.Request.Key.Source != bareSource {
			t.Errorf("%q names %+v", raw, d.Request.Key)
		}
	}
	wantInvalid(t, decode(binary(map[string]string{"ce-type": "flowworker.connection.create%2Ev1"}), goodData), provision.ReasonInvalidRequest, "/type: unsupported type")
}

// FuzzHeaderValue: a sender that encodes is read as it means, whatever it means; so two of its values are never one. What
// a sender that doesn't encode writes stays as it is but for what an encoder would have written.
func FuzzHeaderValue(f *testing.F) {
	for _, c := range headerValues {
		f.Add(c.raw)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if utf8.ValidString(value) {
			if got, err := unescape(EncodeHeader(value)); err != nil || got != value {
				t.Fatalf("%q encoded is read as %q, %v", value, got, err)
			}
		}
		got, err := unescape(value)
		if err != nil {
			return
		}
		want := encodedByte.ReplaceAllStringFunc(value, func(hex string) string {
			n, _ := strconv.ParseUint(hex[1:], 16, 8)
			return string([]byte{byte(n)})
		})
		if got != want || !utf8.ValidString(got) {
			t.Fatalf("%q is read as %q, want %q", value, got, want)
		}
	})
}

// encodedByte is what the binding's encoder writes of a blank, a double quote, a percent sign, and of bytes outside
// "!" to "~".
var encodedByte = regexp.MustCompile(`(?i)%(?:2[025]|[01][0-9a-f]|7f|[89a-f][0-9a-f])`)

func TestDataInsideAString(t *testing.T) {
	t.Parallel()
	text := func(s string) string { return quote(t, s) }
	literal := strings.Replace(goodData, "vault:databricks/acme#accessToken", "hunter2-hunter2", 1)
	token := strings.Replace(goodData, `"acme-db"`, `"`+secret+`"`, 1)
	const hint = "/data: JSON inside a string; send the object itself as data"
	for name, c := range map[string]struct {
		data   string
		reason provision.Reason
		want   string
	}{
		"good":          {text(goodData), provision.ReasonInvalidRequest, hint},
		"twice":         {text(text(goodData)), provision.ReasonInvalidRequest, hint},
		"blanks":        {text("\n " + goodData + "\n"), provision.ReasonInvalidRequest, hint},
		"base64":        {text(base64.StdEncoding.EncodeToString([]byte(goodData))), provision.ReasonInvalidRequest, hint},
		"literal":       {text(literal), provision.ReasonPlaintextSecret, hint},
		"literal twice": {text(text(literal)), provision.ReasonPlaintextSecret, hint},
		"base64 of one": {text(base64.StdEncoding.EncodeToString([]byte(literal))), provision.ReasonPlaintextSecret, hint},
		"token":         {text(token), provision.ReasonPlaintextSecret, hint},
		"unknown field": {text(`{"x":"` + secret + `"}`), provision.ReasonPlaintextSecret, hint},
		"whole event":   {text(structured(t, goodData, nil)), provision.ReasonInvalidRequest, "/data: a whole event inside a string"},
		"event, token":  {text(structured(t, literal, nil)), provision.ReasonPlaintextSecret, "/data: a whole event inside a string"},
		"event, null":   {text(structured(t, "null", nil)), provision.ReasonInvalidRequest, "/data: a whole event inside a string"},
		"mere token":    {text(secret), provision.ReasonPlaintextSecret, "/data: got string, want object"},
		"broken, token": {text(`{"a":"` + secret), provision.ReasonPlaintextSecret, "/data: got string, want object"},
		"words":         {`"words"`, provision.ReasonInvalidRequest, "/data: got string, want object"},
		"list":          {`"[1]"`, provision.ReasonInvalidRequest, "/data: got string, want object"},
		"null":          {`"null"`, provision.ReasonInvalidRequest, "/data: got string, want object"},
	} {
		for form, l := range map[string]Letter{"bare": letter(nil, c.data), "binary": letter(binary(nil), c.data), "structured": letter(nil, structured(t, c.data, nil)), "base64": letter(nil, inBase64(t, c.data))} {
			d, dead, told := told(l)
			wantInvalid(t, d, c.reason, c.want)
			if strings.Contains(told, secret) || strings.Contains(told, "hunter2") || dead.Headers[HeaderRedacted] == nil || strings.Contains(d.Invalid.Message, "; /") {
				t.Errorf("%s, %s: %s", name, form, told)
			}
		}
	}
}

func TestReferencesAreQuotedAsTheyShouldBe(t *testing.T) {
	t.Parallel()
	at := func(ref string) provision.Delivery {
		return decode(nil, with(t, goodData, map[string]any{"auth.params.accessToken": ref}))
	}
	const want = `/data/auth/params/accessToken: `
	for _, ref := range []string{"vault:secret/data/flow/tenants/acme/databricks/acme#accessToken", "vault:data/databricks/acme#accessToken"} {
		wantInvalid(t, at(ref), provision.ReasonInvalidRequest, want+"malformed secret reference", `; send "vault:databricks/acme#accessToken"`)
	}
	for _, ref := range []string{"Vault:databricks/acme#x", `"vault:databricks/acme#x"`, "\ufeffvault:databricks/acme#x", "${vault:databricks/acme#x}", "$ vault kv get -field=x secret/databricks/acme"} {
		wantInvalid(t, at(ref), provision.ReasonInvalidRequest, want+"malformed secret reference", `; send "vault:databricks/acme#x"`)
	}
	wantInvalid(t, at("vault:databricks/acme@1#x"), provision.ReasonInvalidRequest, want+"malformed secret reference", `; send "vault:databricks/acme?version=1#x"`)
	wantInvalid(t, at("vault:databricks/acme"), provision.ReasonInvalidRequest, "#<field> is missing", `; send "vault:databricks/acme#<field>"`)
	wantInvalid(t, at("ref+vault://secret/Hunter2"), provision.ReasonPlaintextSecret)
	wantInvalid(t, at("vault kv get -field=x -token=hvs.CAESIJ0123456789abcdefghijklmnop secret/databricks/acme"), provision.ReasonPlaintextSecret)
	d := at("vault:secret/data/flow/tenants/globex/databricks/globex#accessToken")
	if wantInvalid(t, d, provision.ReasonSecretForbidden, want+"reference outside what the tenant may name"); strings.Contains(d.Invalid.Message, "globex") || strings.Contains(d.Invalid.Message, "send") {
		t.Errorf("tells of another tenant: %s", d.Invalid)
	}
	const token = "dapi0123456789abcdef0123456789abcdef"
	if d := at("vault:/" + token + "#x"); strings.Contains(d.Invalid.Message, token) {
		t.Errorf("quotes a token: %s", d.Invalid)
	}
	other := &Decoder{AllowedDomains: decoder.AllowedDomains, Secrets: provision.Layout{Mount: "kv", Prefix: "p"}}
	wantValid(t, other.Decode("acme", nil, []byte(with(t, goodData, map[string]any{"auth.params.accessToken": "vault:secret/x#y"})), meta))
	wantInvalid(t, other.Decode("acme", nil, []byte(with(t, goodData, map[string]any{"auth.params.accessToken": "vault:kv/data/p/acme/x#y"})), meta), provision.ReasonInvalidRequest, `; send "vault:x#y"`)
}

func TestDomainIsPostedWithoutWhatABrowserAdds(t *testing.T) {
	t.Parallel()
	const adb = "https://adb-1234567890123456.7.azuredatabricks.net"
	usual := decode(nil, goodData)
	for _, written := range []string{adb + "/", adb + ":443", "HTTPS://ADB-1234567890123456.7.AzureDatabricks.net/?o=1234567890123456"} {
		body := with(t, goodData, map[string]any{"auth.params.domain": written})
		d, dead, _ := told(letter(nil, body))
		if wantValid(t, d); d.Request.Data.Auth.Params.Domain != adb {
			t.Errorf("%s: posted as %s", written, d.Request.Data.Auth.Params.Domain)
		}
		if d.Request.Fingerprint == usual.Request.Fingerprint { // it is that of the data as sent
			t.Errorf("%s: has the fingerprint of another text", written)
		}
		if string(dead.Body) != body || dead.Headers[HeaderRedacted] != nil {
			t.Errorf("%s: the dead letter is %s", written, dead.Body)
		}
	}
	upper := with(t, goodData, map[string]any{"connectionSpec.id": "E9D7EC6B-0873-4E57-AD21-B3A7C65E310B"})
	if d := decode(nil, upper); d.Invalid != nil || d.Request.Data.ConnectionSpec.ID != "E9D7EC6B-0873-4E57-AD21-B3A7C65E310B" {
		t.Errorf("an id in capitals: %+v", d)
	}
}

// FuzzSameRequest: neither a byte order mark nor a null where an optional field may be makes another request of a
// message, nor do attributes that nobody reads.
func FuzzSameRequest(f *testing.F) {
	for _, text := range append(jsonTexts, goodData, structured(f, goodData, nil), `{"description":null,"x":1e400}`, `{"auth":{"params":{"catalog":null}}}`) {
		f.Add([]byte(text), "x", "1")
	}
	f.Fuzz(func(t *testing.T, body []byte, name, value string) {
		was := decode(nil, string(body))
		if strings.HasPrefix(string(body), mark) {
			return
		}
		if _, err := PlainText(body); err != nil {
			return
		}
		if is := decode(nil, mark+string(body)); is.Request.Key != was.Request.Key || is.Request.Fingerprint != was.Request.Fingerprint || (is.Invalid == nil) != (was.Invalid == nil) {
			t.Fatalf("%q behind a mark is %+v, not %+v", body, is, was)
		}
		if was.Invalid != nil {
			return
		}
		if n, err := parse(body); err == nil && n.member("specversion") == nil && n.member("ifExists") == nil {
			null := "{\"ifExists\":null," + strings.TrimLeft(string(body), " \t\r\n")[1:]
			if is := decode(nil, null); is.Request.Key != was.Request.Key || is.Request.Fingerprint != was.Request.Fingerprint || is.Invalid != nil {
				t.Fatalf("%q with a null is %+v, not %+v", null, is, was)
			}
		} else if err == nil && n.member("specversion") != nil && utf8.ValidString(name+value) && !readsAttribute(name) && name != "data" && name != "data_base64" {
			more := "{" + quote(t, name) + ":" + quote(t, value) + "," + strings.TrimLeft(string(body), " \t\r\n")[1:]
			if is := decode(nil, more); is.Request.Key != was.Request.Key || is.Request.Fingerprint != was.Request.Fingerprint || is.Invalid != nil {
				t.Fatalf("%q is %+v, not %+v", more, is, was)
			}
		}
	})
}

// What was copied with something around it, or typed in capitals, is refused with the value to send.
func TestValuesToSendAreQuoted(t *testing.T) {
	t.Parallel()
	const uuid = "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b"
	for path, values := range map[string]map[string]string{
		"sandbox":           {"Prod": "prod", " prod\n": "prod", `"prod"`: "prod", "PROD-EU": "prod-eu", "prod eu": "", "": "", "dapi0123456789ABCDEF0123456789abcdef": ""},
		"connectionSpec.id": {"{" + uuid + "}": uuid, "urn:uuid:" + uuid: uuid, strings.ReplaceAll(uuid, "-", ""): uuid, strings.ToUpper(" " + uuid): uuid, "databricks": "", uuid + "x": ""},
		"ifExists":          {"Adopt": "adopt", " create": "create", "maybe": "", "": ""},
	} {
		for sent, want := range values {
			d := decode(nil, with(t, goodData, map[string]any{path: sent}))
			if d.Invalid == nil {
				t.Errorf("%s = %q is taken", path, sent)
				continue
			}
			if _, got, _ := strings.Cut(d.Invalid.Message, "; send "); got != strings.TrimSuffix(strconv.Quote(want), `""`) {
				t.Errorf("%s = %q: %s, want %q", path, sent, d.Invalid.Message, want)
			}
		}
	}
}
