package flowtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func (b *bed) admin(method, path, body string) reply {
	b.t.Helper()
	return b.do(method, adminBase+path, body, map[string]string{"Authorization": "", "x-api-key": "", "x-gw-ims-org-id": "", "x-sandbox-name": ""})
}

func TestAdminFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var added struct{ IDs []string }
	b.admin("POST", "/faults", `{"operation":"list","effect":"status","status":503,"retryAfter":"2s","times":1}`).want(t, 201).decode(t, &added)
	if got := b.get("/connections").want(t, 503).header.Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After = %q, want 2", got)
	}
	b.admin("POST", "/faults/", `[{"effect":"latency","delay":"1ns"},{"operation":"list","effect":"status","status":500}]`).want(t, 201).decode(t, &added)
	b.get("/connections").want(t, 500)
	var report struct{ Faults []faultReport }
	b.admin("GET", "/faults", "").want(t, 200).decode(t, &report)
	if len(report.Faults) != 3 || report.Faults[0].Struck != 1 || report.Faults[0].Seen != 2 || report.Faults[1].Fault.Delay != 1 {
		t.Errorf("report = %+v", report)
	}
	b.admin("DELETE", "/faults/"+added.IDs[1], "").want(t, 204)
	b.admin("DELETE", "/faults/"+added.IDs[1], "").want(t, 404)
	b.get("/connections").want(t, 200)
	b.admin("POST", "/faults", `{"effect":"status","status":500}`).want(t, 201)
	b.admin("DELETE", "/faults", "").want(t, 204)
	b.get("/connections").want(t, 200)
}

func TestAdminRefusesFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for body, want := range map[string]string{
		``:                                  "got none",
		`[]`:                                "got none",
		`null`:                              "effect",
		`7`:                                 "want a fault",
		`{`:                                 "want a fault",
		`{"effect":"status"}`:               "fault 0: ",
		`{"effect":"reset","wen":"after"}`:  `unknown field \"wen\"`,
		`{"effect":"latency","delay":"5"}`:  "want a duration",
		`[{"effect":"reset"},{"times":-1}]`: "fault 1: ",
		strings.Repeat(" ", MaxBody+1):      "cannot be read",
	} {
		r := b.admin("POST", "/faults", body).want(t, 400)
		if !strings.Contains(string(r.body), want) {
			t.Errorf("%.40s: %s, want %q", body, r.body, want)
		}
	}
	if got := b.em.faults.report(); len(got) != 0 {
		t.Errorf("faults = %+v, want none", got)
	}
}

func TestAdminShowsNoSecrets(t *testing.T) {
	t.Parallel()
	var logs safeBuffer
	b := newBed(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b.create("a")
	b.ims("client_id", "id", "client_secret", "s3cret").want(t, 200)
	b.do("POST", tokenPath+"?client_secret=s3cret", "", nil).want(t, 400)
	connections, requests := b.admin("GET", "/connections", ""), b.admin("GET", "/requests", "")
	for _, r := range []reply{connections, requests, b.get("/connections")} {
		leaksNothing(t, r.want(t, 200).body)
	}
	if !bytes.Contains(connections.body, []byte(`"accessToken":"xxxx"`)) {
		t.Errorf("connections = %s, want the token masked", connections.body)
	}
	var got struct {
		Counts   map[Operation]int
		Requests []struct{ Body string }
	}
	requests.decode(t, &got)
	if got.Counts[OpCreate] != 1 || got.Counts[OpToken] != 2 || !strings.Contains(got.Requests[0].Body, "orders_db") {
		t.Errorf("requests = %+v", got)
	}
	leaksNothing(t, fmt.Appendf(nil, "%+v", b.em.Connections()))
	leaksNothing(t, logs.Bytes())
	if !bytes.Contains(logs.Bytes(), []byte(`"operation":"create"`)) {
		t.Errorf("log = %s", logs.Bytes())
	}
}

// safeBuffer is a buffer for several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *safeBuffer) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.buf.Bytes())
}

func TestAdminReset(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create("a")
	b.admin("POST", "/faults", `{"effect":"status","status":500}`).want(t, 201)
	b.admin("POST", "/reset", "").want(t, 204)
	if len(b.em.Connections()) != 0 || len(b.em.Requests()) != 0 || b.em.Count(OpAny) != 0 {
		t.Error("something is left")
	}
	b.get("/connections").want(t, 200) // tokens stay
	b.admin("GET", "/nothing", "").want(t, 404)
	b.admin("GET", "", "").want(t, 404)
}

func TestSeed(t *testing.T) {
	t.Parallel()
	ids := func(em *Emulator) (out []string) {
		for range 3 {
			out = append(out, em.store.dice.uuid())
		}
		return out
	}
	first := New(Config{})
	again := New(Config{Seed: first.Seed()})
	if a, b := ids(first), ids(again); !slices.Equal(a, b) {
		t.Errorf("the same seed gave %q, then %q", a, b)
	}
	if New(Config{}).Seed() == first.Seed() {
		t.Error("two random seeds are equal")
	}
}

// TestManyAtOnce is for the race detector: all kinds of calls while faults come and go.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	const workers, rounds = 8, 25
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				remove := b.em.AddFault(Fault{Operation: OpGet, Effect: EffectLatency, Delay: 1})
				made := b.create(fmt.Sprintf("w%d-%d", w, i))
				b.get("/connections/"+made.ID).want(t, 200)
				b.names("/connections?limit=5&orderby=name")
				if i%2 == 0 {
					b.do("DELETE", "/connections/"+made.ID, "", nil).want(t, 204)
				}
				b.em.Marks()
				remove()
			}
		})
	}
	wg.Wait()
	b.wantStored(workers * (rounds / 2))
	if got := b.em.Count(OpCreate); got != workers*rounds {
		t.Errorf("%d creates were counted, want %d", got, workers*rounds)
	}
}

// BenchmarkCreateAndFind is one POST and one list by name among 50,000 connections.
func BenchmarkCreateAndFind(b *testing.B) {
	em := New(Config{AllowAnyToken: true})
	for i := range 50_000 {
		em.store.add(conn{in: scope{testOrg, testSandbox}, name: fmt.Sprint("old", i)}, false)
	}
	call := func(method, path, body string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for key, value := range map[string]string{
			"Authorization": "Bearer x", "x-api-key": "k", "x-gw-ims-org-id": testOrg, "x-sandbox-name": testSandbox, "Content-Type": "application/json",
		} {
			r.Header.Set(key, value)
		}
		w := httptest.NewRecorder()
		if em.ServeHTTP(w, r); w.Code >= 300 {
			b.Fatal(w.Code, w.Body)
		}
	}
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprint("new", i)
		call("POST", "/connections", createJSON(name, ""))
		call("GET", query("name=="+name), "")
	}
}

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
