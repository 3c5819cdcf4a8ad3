package flowtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestRequestBody shows that the body of a create is kept byte for byte, its token apart.
func TestRequestBody(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	sent := golden(t, "connection-create-request")
	b.do(http.MethodPost, flowBase+"/connections?mode=draft", string(sent), nil).want(t, 201)
	got := b.em.Requests()[0]
	if diff := cmp.Diff(strings.Replace(string(sent), "EXAMPLE-NOT-A-TOKEN", provision.Redacted, 1), string(got.Body)); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if got.AccessToken.Reveal() != "EXAMPLE-NOT-A-TOKEN" || !b.em.Connections()[0].AccessToken.Equal(got.AccessToken) {
		t.Error("the token is not the one that was sent")
	}
	want := Request{Seq: 1, At: b.clock.Now(), Operation: OpCreate, Method: "POST", Path: flowBase + "/connections", RawQuery: "mode=draft", Status: 201}
	have := got
	have.Body, have.Header, have.Query, have.AccessToken = nil, nil, nil, provision.Sensitive{}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if got.Header.Get("Authorization") != provision.Redacted || got.Header.Get("x-sandbox-name") != testSandbox || got.Query.Get("mode") != "draft" {
		t.Errorf("header = %v, query = %v", got.Header, got.Query)
	}
}

func TestRedactJSON(t *testing.T) {
	t.Parallel()
	secrets := map[string]bool{"accessToken": true, "password": true}
	const r = `"` + provision.Redacted + `"`
	for in, want := range map[string]string{
		`{}`:                                    `{}`,
		` { "a" : 1 } `:                         ` { "a" : 1 } `,
		`{"accessToken":"t","a":"accessToken"}`: `{"accessToken":` + r + `,"a":"accessToken"}`,
		`{"accessToken" : "t\u0041\"" , "b":[1]}`:                   `{"accessToken" : ` + r + ` , "b":[1]}`,
		`{"\u0061ccessToken":"t"}`:                                  `{"\u0061ccessToken":` + r + `}`,
		`[{"password":7},{"password":null}]`:                        `[{"password":` + r + `},{"password":` + r + `}]`,
		`{"a":{"accessToken":{"x":["t",{"y":1}],"z":"t"}},"b":"c"}`: `{"a":{"accessToken":{"x":[` + r + `,{"y":` + r + `}],"z":` + r + `}},"b":"c"}`,
		`{"password":[],"a":"b"}`:                                   `{"password":[],"a":"b"}`,
		`"text"`:                                                    `"text"`,
		`{"accessToken":"t"`:                                        ``,
		`{"accessToken":"t"} trailing`:                              ``,
		`not JSON`:                                                  ``,
		`[{"path":"/x","value":"t"}]`:                               `[{"path":"/x","value":` + r + `}]`,
		`[{"value":{"a":"b"},"from":"c"}]`:                          `[{"value":{"a":"b"},"from":"c"}]`,
	} {
		got, _ := redactJSON([]byte(in), secrets, true)
		if string(got) != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}

func FuzzRedactJSON(f *testing.F) {
	f.Add(`{"accessToken":"s3cret","a":[1,{"b":null}]}`)
	f.Add(`[{"op":"replace","path":"/auth/params","value":{"accessToken":"s3cret"}}]`)
	f.Fuzz(func(t *testing.T, s string) {
		got, _ := redactJSON([]byte(s), map[string]bool{"accessToken": true}, false)
		if got != nil && json.Valid([]byte(s)) != json.Valid(got) {
			t.Errorf("%q became %q", s, got)
		}
		if got == nil && json.Valid([]byte(s)) {
			t.Errorf("%q was left out, though it is JSON", s)
		}
	})
}

func TestMarks(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	mark := provision.Key{Tenant: "acme", Source: "/s", ID: "1"}.Mark()
	other := provision.Key{Tenant: "acme", Source: "/s", ID: "2"}.Mark()
	for _, description := range []string{"a " + mark, mark, "none", other + other, "[flow-worker XYZ]"} {
		b.do(http.MethodPost, "/connections", createJSON("a", description), nil).want(t, 201)
	}
	all := b.em.Connections()
	want := map[string][]string{mark: {all[0].ID, all[1].ID}, other: {all[3].ID}}
	if diff := cmp.Diff(want, b.em.Marks()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	done := make(chan error)
	go func() {
		done <- b.em.Wait(t.Context(), func(e *Emulator) bool { return len(e.Connections()) == 3 && e.Count(OpAny) == 4 })
	}()
	for range 3 {
		b.create("a")
	}
	b.get("/connections")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("tired")
	cancel(why)
	if err := b.em.Wait(ctx, func(*Emulator) bool { return false }); !errors.Is(err, why) {
		t.Errorf("err = %v, want the context's cause", err)
	}
	if err := b.em.Wait(ctx, func(*Emulator) bool { return true }); err != nil {
		t.Errorf("err = %v, want none for what holds already", err)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	x := &exchange{op: OpList, r: httptest.NewRequest("GET", "/connections", nil)}
	const more = 5
	for range MaxKept + more {
		r.add(x, nil)
	}
	r.answered(1, 500) // long forgotten
	r.answered(more+1, 200)
	all := r.list()
	if len(all) != MaxKept || all[0].Seq != more+1 || all[0].Status != 200 || all[MaxKept-1].Seq != MaxKept+more {
		t.Errorf("%d requests, from %d (%d) to %d", len(all), all[0].Seq, all[0].Status, all[len(all)-1].Seq)
	}
	if r.count(OpList) != MaxKept+more || r.count(OpAny) != MaxKept+more || r.count(OpGet) != 0 {
		t.Errorf("counts are not exact: %d", r.count(OpList))
	}
	x.body = bytes.Repeat([]byte(" "), keptBody+1)
	r.add(x, nil)
	if got := r.list()[MaxKept-1]; got.Body != nil {
		t.Errorf("a body of %d bytes was kept", len(got.Body))
	}
}
