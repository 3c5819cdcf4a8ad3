package event

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const goodData = `{
  "sandbox": "prod",
  "name": "Databricks connection to Experience Platform",
  "description": "A Databricks base connection",
  "auth": { "specName": "Access Token Authentication",
            "params": { "domain": "https://adb-1234567890123456.7.azuredatabricks.net", "clusterId": "0601-182128-dcbte59m",
                        "accessToken": "vault:databricks/acme#accessToken", "database": "acme-db" } },
  "connectionSpec": { "id": "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "version": "1.0" } }`

const secret = "dapi0123456789abcdefLITERAL"

var (
	decoder = &Decoder{AllowedDomains: []string{"azuredatabricks.net"}}
	entered = time.Date(2026, 11, 22, 3, 0, 0, 123, time.UTC)
	meta    = Meta{Seq: 42, Timestamp: entered, Delivered: 1}
)

// with returns JSON with the values at the given paths set ("auth.params.domain"); an absent{} value
// removes the field.
func with(t testing.TB, text string, changes map[string]any) string {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	for path, value := range changes {
		at, parts := doc, strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			at = at[p].(map[string]any)
		}
		last := parts[len(parts)-1]
		if _, gone := value.(absent); gone {
			delete(at, last)
		} else {
			at[last] = value
		}
	}
	out, err := marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

type absent struct{}

// structured returns an event around data, with attributes changed.
func structured(t testing.TB, data string, changes map[string]any) string {
	t.Helper()
	return with(t, `{"specversion":"1.0","id":"r-1","source":"/portal","type":"`+TypeCreate+
		`","time":"2026-11-22T03:00:00Z","datacontenttype":"application/json","data":`+data+`}`, changes)
}

// binary returns the headers of an event, with some of them changed.
func binary(changes map[string]string) map[string][]string {
	h := map[string]string{"ce-specversion": "1.0", "ce-id": "r-1", "ce-source": "/portal", "ce-type": TypeCreate,
		"Content-Type": "application/json"}
	maps.Copy(h, changes)
	out := map[string][]string{}
	for k, v := range h {
		if v != "-" {
			out[k] = []string{v}
		}
	}
	return out
}

func head(pairs ...string) map[string][]string {
	out := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = append(out[pairs[i]], pairs[i+1])
	}
	return out
}

func decode(headers map[string][]string, body string) provision.Delivery {
	return decoder.Decode("acme", headers, []byte(body), meta)
}

// wantInvalid checks the reason and that every fragment is in the message.
func wantInvalid(t testing.TB, d provision.Delivery, reason provision.Reason, fragments ...string) {
	t.Helper()
	if d.Invalid == nil {
		t.Fatalf("valid, want %s %q", reason, fragments)
	}
	if d.Invalid.Reason != reason {
		t.Errorf("reason %s, want %s: %s", d.Invalid.Reason, reason, d.Invalid.Message)
	}
	for _, f := range fragments {
		if !strings.Contains(d.Invalid.Message, f) {
			t.Errorf("message lacks %q: %s", f, d.Invalid.Message)
		}
	}
	if strings.Contains(d.Invalid.Message, secret) {
		t.Errorf("message tells the secret: %s", d.Invalid.Message)
	}
}

func wantValid(t testing.TB, d provision.Delivery) {
	t.Helper()
	if d.Invalid != nil {
		t.Fatalf("invalid: %s", d.Invalid)
	}
}
