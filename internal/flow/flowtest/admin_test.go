package flowtest

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
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
