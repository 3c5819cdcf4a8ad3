package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// fuzzSeeds adds messages in all three forms, whole and broken.
func fuzzSeeds(f *testing.F) {
	literal := strings.Replace(goodData, "vault:databricks/acme#accessToken", secret, 1)
	for _, data := range []string{goodData, literal, strings.Replace(literal, "accessToken", "token", 1)} {
		f.Add("", "", "", "", []byte(data))
		f.Add("r-1", "1.0", TypeCreate, "", []byte(data))
		f.Add("", "", "", ContentType, []byte(structured(f, data, nil)))
		f.Add("", "", "", "", []byte(structured(f, "{}", map[string]any{"data": absent{},
			"data_base64": base64.StdEncoding.EncodeToString([]byte(data))})))
		f.Add("%41", "1.0", "other", "text/plain", []byte(data[:len(data)/2]))
	}
	f.Add("", "", "", "", []byte(`{"a":"\ud800","a":1e999,"b":[[[[]]]],"\u0000":null}`))
	f.Add("", "", "", "", []byte(`"`+secret+`"`))
	f.Add("", "1", "", "", []byte(strings.Repeat("[", 5000)))
}

func fuzzHeaders(id, version, typ, contentType string) map[string][]string {
	h := map[string][]string{}
	for name, value := range map[string]string{"ce-id": id, "ce-specversion": version, "ce-type": typ, "Content-Type": contentType, "Flow-Worker-Retry": version} {
		if value != "" {
			h[name] = []string{value}
		}
	}
	return h
}

func FuzzDecode(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, id, version, typ, contentType string, body []byte) {
		headers := fuzzHeaders(id, version, typ, contentType)
		d := decoder.Decode("acme", headers, body, meta)
		k := d.Request.Key
		if !validID(k.ID) || !validID(k.Source) || !utf8.ValidString(k.ID+k.Source) || len(d.Request.Fingerprint) != 64 {
			t.Fatalf("unusable name or fingerprint: %+v", d.Request)
		}
		if diff := cmp.Diff(d, decoder.Decode("acme", headers, body, meta)); diff != "" {
			t.Fatalf("read twice, it differs:\n%s", diff)
		}
		if d.Invalid != nil && !utf8.ValidString(d.Invalid.Message) {
			t.Fatalf("message is no UTF-8: %q", d.Invalid.Message)
		}
		if ref := d.Request.Data.Auth.Params.AccessToken; d.Invalid == nil {
			if _, err := provision.ParseSecretRef(ref.String()); err != nil {
				t.Fatalf("valid, but its reference is not: %v", err)
			}
		}
	})
}

// FuzzDeadLetter puts a literal wherever the fuzzer finds a place for one under auth.params or in an
// unknown field; no dead letter and no message may tell it.
func FuzzDeadLetter(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, id, version, typ, contentType string, body []byte) {
		headers := fuzzHeaders(id, version, typ, contentType)
		headers["ce-zzz"] = []string{secret}
		token := with(t, goodData, map[string]any{"auth.params.accessToken": secret, "auth.params." + jsonName(id): secret})
		bodies := []string{string(body), `{"accessToken":"` + secret + `"` + string(body), token}
		if json.Valid(body) {
			unknown := `{"zzz":{"` + secret + `":` + string(body) + `},` + token[1:]
			bodies = append(bodies, unknown,
				`{"specversion":"1.0","id":`+quote(t, id)+`,"zzz":"`+secret+`","type":`+quote(t, typ)+`,"data":`+unknown+`}`)
		}
		for i, text := range bodies {
			l := letter(headers, text)
			got := decoder.DeadLetter(l)
			if diff := cmp.Diff(got, decoder.DeadLetter(l)); diff != "" {
				t.Fatalf("written twice, it differs:\n%s", diff)
			}
			if i > 0 && strings.Contains(fmt.Sprint(string(got.Body), got.Headers), secret) {
				t.Fatalf("tells the secret: %s %v", got.Body, got.Headers)
			}
			// Decoded names stay, for they are part of the request's shape; its values do not.
			if i > 1 && got.Headers[HeaderRedacted] == nil {
				t.Fatalf("not said to be redacted: %s", got.Body)
			}
			if i > 1 && strings.Contains(fmt.Sprint(decoder.Decode("acme", headers, []byte(text), meta).Invalid), secret) {
				t.Fatal("the message tells the secret")
			}
		}
	})
}

func quote(t testing.TB, s string) string {
	t.Helper()
	text, err := marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// jsonName returns a name that is not one of the parameters a dead letter keeps.
func jsonName(s string) string { return "x" + strings.ReplaceAll(s, ".", "_") }

func FuzzEncodeResult(f *testing.F) {
	f.Add("created", "r-1", "acme", "name", int64(0), 1, "invalid_request", "text")
	f.Add("failed", "\x00\xff", "", "\u2028<>", int64(-1), -1, "", "\ud7ff")
	f.Fuzz(func(t *testing.T, outcome, id, tenant, name string, at int64, attempts int, reason, text string) {
		r := provision.Result{Outcome: outcome, EventID: "e" + id, Request: provision.RequestID{ID: id, Source: name}, Tenant: tenant,
			Name: name, Attempts: attempts, RequestedAt: time.Unix(at, at), CompletedAt: time.Unix(at, 0), Trace: provision.Trace{State: text},
			Error: &provision.Failure{Reason: provision.Reason(reason), Message: text}}
		body, err := EncodeResult(r)
		if err != nil {
			return
		}
		if again := encode(t, r); !bytes.Equal(body, again) || !json.Valid(body) {
			t.Fatalf("encoded twice:\n%s\n%s", body, again)
		}
		back, err := DecodeResult(body)
		if err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if again := encode(t, back); !bytes.Equal(body, again) {
			t.Fatalf("decoded and encoded again:\n%s\n%s", body, again)
		}
	})
}
