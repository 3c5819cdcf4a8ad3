package event

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestEncodeRequestOfData(t *testing.T) {
	t.Parallel()
	msg, err := EncodeRequest(Draft{Body: []byte(goodData), ID: "r-1", Source: "/cli", Time: entered, Trace: trace})
	if err != nil {
		t.Fatal(err)
	}
	d := decoder.Decode("acme", msg.Headers, msg.Body, meta)
	wantValid(t, d)
	if d.Request.Key != (provision.Key{Tenant: "acme", Source: "/cli", ID: "r-1"}) || d.Request.Trace != trace {
		t.Errorf("got %+v", d.Request)
	}
	if d.Request.Fingerprint != decode(nil, goodData).Request.Fingerprint {
		t.Error("the data changed on its way")
	}
	again, err := EncodeRequest(Draft{Body: msg.Body})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(msg.Body), string(again.Body)); diff != "" {
		t.Errorf("an event encoded again (-want +got):\n%s", diff)
	}
}

func TestEncodeRequestOfEvent(t *testing.T) {
	t.Parallel()
	body := structured(t, goodData, map[string]any{"partitionkey": "p", "expirytime": "2030-01-01T00:00:00Z"})
	msg, err := EncodeRequest(Draft{Body: []byte(body), Time: entered})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(with(t, body, nil), with(t, string(msg.Body), nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	msg, err = EncodeRequest(Draft{Body: []byte(body), ID: "other", Source: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	if k := decoder.Decode("acme", msg.Headers, msg.Body, meta).Request.Key; k.ID != "other" || k.Source != "elsewhere" {
		t.Errorf("got %v", k)
	}
}

func TestEncodeRequestRefuses(t *testing.T) {
	t.Parallel()
	named := Draft{ID: "r-1", Source: "/cli"}
	for body, want := range map[string]string{
		"":     "empty",
		"{":    "not JSON",
		"[]":   "not a JSON object",
		"{}{}": "not JSON",
		`{"specversion":"1.0","id":"a","id":"b","source":"s"}`: "/id: given more than once",
	} {
		d := named
		d.Body = []byte(body)
		if _, err := EncodeRequest(d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
	for _, d := range []Draft{{ID: "r-1"}, {Source: "/cli"}} {
		d.Body = []byte(goodData)
		if _, err := EncodeRequest(d); err == nil || !strings.Contains(err.Error(), "the request has no ") {
			t.Errorf("%+v: got %v", d, err)
		}
	}
}

// What is wrong inside the data is for Decode to say, so it has to get there.
func TestEncodeRequestPassesFaultsOn(t *testing.T) {
	t.Parallel()
	body := strings.Replace(goodData, `"sandbox"`, `"sandbox":"dev","sandbox"`, 1)
	msg, err := EncodeRequest(Draft{Body: []byte(body), ID: "r-1", Source: "/cli"})
	if err != nil {
		t.Fatal(err)
	}
	wantInvalid(t, decoder.Decode("acme", msg.Headers, msg.Body, meta), provision.ReasonInvalidRequest, "/data/sandbox: given more than once")
}

// resolving decodes a valid request with these headers beside its own.
func resolving(headers map[string][]string) provision.Delivery {
	headers[HeaderContentType] = []string{ContentType}
	body := `{"specversion":"1.0","id":"r-1","source":"/s","type":"flowworker.connection.create.v1","data":` + resolvable + `}`
	d := &Decoder{AllowedDomains: []string{"azuredatabricks.net"}}
	return d.Decode("acme", headers, []byte(body), Meta{Seq: 1, Timestamp: time.Unix(1, 0), Delivered: 1})
}

const resolvable = `{"sandbox":"prod","name":"n","auth":{"specName":"Access Token Authentication","params":{` +
	`"domain":"https://adb-1.7.azuredatabricks.net","clusterId":"c","accessToken":"vault:a#b","database":"d"}},` +
	`"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`

func TestResolutionComesThrough(t *testing.T) {
	t.Parallel()
	for _, want := range []provision.Resolution{
		{Connection: "1f2e-aB_9", By: "ada <ada@example.com>", Why: "seen in the UI: \"Größe\" & 100 %"},
		{By: "ops", Why: strings.Repeat("ü", MaxResolveWhy/2)},
	} {
		value, err := ResolveHeader(want)
		if err != nil {
			t.Fatal(err)
		}
		d := resolving(map[string][]string{"flow-worker-RESOLVE": {value}, HeaderRetry: {"3"}})
		if d.Invalid != nil || d.Detached || d.Request.Retry != 3 {
			t.Fatalf("%+v", d)
		}
		if diff := cmp.Diff(&want, d.Request.Resolution); diff != "" {
			t.Error(diff)
		}
	}
	if d := resolving(map[string][]string{HeaderRetry: {"1"}}); d.Request.Resolution != nil || d.Invalid != nil {
		t.Errorf("without the header: %+v", d)
	}
}

func TestMalformedResolutionSpeaksOfItsMessageOnly(t *testing.T) {
	t.Parallel()
	const good = "absent=true&by=ada&why=x"
	salts := map[string]string{}
	for name, c := range map[string]struct {
		values []string
		retry  string
		says   string
	}{
		"no retry":        {[]string{good}, "0", HeaderRetry},
		"twice":           {[]string{good, good}, "1", "more than once"},
		"empty":           {[]string{""}, "1", "want by, why"},
		"both":            {[]string{good + "&connection=c1"}, "1", "want by, why"},
		"neither":         {[]string{"by=ada&why=x"}, "1", "want by, why"},
		"not absent":      {[]string{"absent=false&by=ada&why=x"}, "1", "want by, why"},
		"nobody":          {[]string{"absent=true&by=&why=x"}, "1", "by: want 1 to 128"},
		"no reason":       {[]string{"absent=true&by=ada&why=%20"}, "1", "why: want 1 to 512"},
		"long":            {[]string{"absent=true&by=ada&why=" + strings.Repeat("x", MaxResolveWhy+1)}, "1", "why: want"},
		"control":         {[]string{"absent=true&by=a%1bda&why=x"}, "1", "by: want"},
		"no UTF-8":        {[]string{"absent=true&by=%ff&why=x"}, "1", "by: want"},
		"no id":           {[]string{"connection=" + url.QueryEscape("../x") + "&by=ada&why=x"}, "1", "connection: want the id"},
		"unknown part":    {[]string{good + "&force=true"}, "1", "want by, why"},
		"twice a part":    {[]string{good + "&by=bob"}, "1", "want by, why"},
		"no query at all": {[]string{"%zz"}, "1", "URL's query"},
	} {
		d := resolving(map[string][]string{HeaderResolve: c.values, HeaderRetry: {c.retry}})
		if d.Request.Resolution != nil || !d.Detached || d.EventSalt == "" || d.Invalid == nil || d.Invalid.Reason != provision.ReasonInvalidRequest ||
			!strings.Contains(d.Invalid.Message, c.says) || !strings.Contains(d.Invalid.Message, HeaderResolve) {
			t.Errorf("%s: detached %v, %v", name, d.Detached, d.Invalid)
		}
		if other, twice := salts[d.EventSalt]; twice {
			t.Errorf("%s and %s have one salt", name, other)
		}
		salts[d.EventSalt] = name
	}
}

// A token in any part of a resolution is refused, and told nowhere.
func TestTokenInAResolutionIsRefused(t *testing.T) {
	t.Parallel()
	for issuer, token := range canary.Tokens() {
		for _, part := range []string{"connection", "by", "why"} {
			said := map[string]string{"by": "ada", "why": "x", part: token}
			if part != "connection" {
				said["absent"], said[part] = "true", "it is "+token+", see"
			}
			q := url.Values{}
			for name, value := range said {
				q.Set(name, value)
			}
			l := letter(map[string][]string{HeaderResolve: {q.Encode()}, HeaderRetry: {"1"}}, goodData)
			d, _, text := told(l)
			wantInvalid(t, d, provision.ReasonPlaintextSecret, "header "+HeaderResolve+": "+part+": holds what looks like a token")
			if strings.Contains(text, token) || d.Request.Resolution != nil || !d.Detached {
				t.Errorf("%s in %s: %s", issuer, part, text)
			}
			r := provision.Resolution{Connection: said["connection"], By: said["by"], Why: said["why"]}
			if _, err := ResolveHeader(r); !errors.Is(err, ErrTokenInResolution) || strings.Contains(err.Error(), token) {
				t.Errorf("%s in %s: written with %v", issuer, part, err)
			}
		}
	}
}

func TestResolveHeaderRefusesWhatDecodeWould(t *testing.T) {
	t.Parallel()
	for says, r := range map[string]provision.Resolution{
		"connection:": {Connection: "a b", By: "ada", Why: "x"}, "by:": {Why: "x"}, "why:": {By: "ada", Why: "a\nb"},
	} {
		if _, err := ResolveHeader(r); err == nil || !strings.HasPrefix(err.Error(), says) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// A dead letter of a resolution comes back as a plain retry: what a person said once is not said again.
func TestDeadLetterForgetsTheResolution(t *testing.T) {
	t.Parallel()
	d := &Decoder{AllowedDomains: []string{"azuredatabricks.net"}}
	m := d.DeadLetter(Letter{Headers: map[string][]string{HeaderResolve: {"absent=true&by=ada&why=x"}, HeaderRetry: {"1"}},
		Body: []byte(resolvable), Key: provision.Key{Tenant: "acme", Source: "/s", ID: "r-1"}, Retry: 1, Reason: provision.ReasonFlowUnavailable})
	if _, kept := m.Headers[HeaderResolve]; kept || m.Headers[HeaderRedacted] != nil {
		t.Errorf("%v", m.Headers)
	}
}

// Whatever the header says, it is read as what ResolveHeader writes, or refused.
func FuzzResolution(f *testing.F) {
	for _, seed := range []string{"", "absent=true&by=ada&why=x", "connection=c1&by=a+b&why=%C3%BC", "absent=true&connection=c1&by=a&why=b", "%zz", "by;why"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r, err := parseResolution([]string{value})
		if err != nil {
			return
		}
		again, err := ResolveHeader(r)
		if err != nil {
			t.Fatalf("%q was read as %+v: %v", value, r, err)
		}
		if back, err := parseResolution([]string{again}); err != nil || back != r {
			t.Errorf("%+v, written %q, read %+v, %v", r, again, back, err)
		}
	})
}
