package event

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

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
