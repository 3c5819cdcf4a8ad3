package event

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
