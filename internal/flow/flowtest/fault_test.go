package flowtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func (b *bed) post(name string) (reply, error) {
	b.t.Helper()
	return b.try(b.t.Context(), http.MethodPost, "/connections", createJSON(name, "about "+name), nil)
}

// wantStored fails the test unless exactly n connections exist.
func (b *bed) wantStored(n int) {
	b.t.Helper()
	if got := len(b.em.Connections()); got != n {
		b.t.Errorf("%d connections exist, want %d", got, n)
	}
}

// cut reports whether err is what a client sees when its connection is reset.
func cut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func TestReset(t *testing.T) {
	t.Parallel()
	for stage, left := range map[Stage]int{StageUnread: 0, StageBefore: 0, "": 0, StageAfter: 1} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.em.AddFault(Fault{Operation: OpCreate, Effect: EffectReset, When: stage, Times: 1})
			if r, err := b.post("a"); !cut(err) {
				t.Fatalf("got %d, %v, want a reset connection", r.status, err)
			}
			b.wantStored(left)
			if n := b.em.Count(OpCreate); n != 1 {
				t.Errorf("%d creates arrived, want 1: who repeated it?", n)
			}
			b.create("b") // the fault is spent
			b.wantStored(left + 1)
		})
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	for stage, left := range map[Stage]int{StageBefore: 0, StageAfter: 1} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.em.AddFault(Fault{Operation: OpCreate, Effect: EffectHang, When: stage})
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				_, err := b.try(ctx, http.MethodPost, "/connections", createJSON("a", ""), nil)
				done <- err
			}()
			b.wait(func(e *Emulator) bool { return e.Hanging() == 1 })
			b.wantStored(left)
			leave()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v, want it cancelled", err)
			}
			b.wait(func(e *Emulator) bool { return e.Hanging() == 0 })
			b.wantStored(left)
		})
	}
}

func TestHangIsBounded(t *testing.T) {
	t.Parallel()
	slept := make(chan time.Duration, 1)
	b := newBed(t, func(c *Config) {
		c.Sleep = func(_ context.Context, d time.Duration) error { slept <- d; return nil }
	})
	b.em.AddFault(Fault{Effect: EffectHang})
	if _, err := b.post("a"); !cut(err) {
		t.Errorf("err = %v, want a reset connection", err)
	}
	if d := <-slept; d != maxHang {
		t.Errorf("hung for %v, want %v", d, maxHang)
	}
}

// TestStatusOnCreate shows what a client sees of an EffectStatus, and what there is afterwards.
func TestStatusOnCreate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		fault    Fault
		left     int
		location bool
		body     string // a part of it, "" if it is empty
	}{
		{"5xx before creating", Fault{Status: 503}, 0, false, "FLOW-1103-503"},
		{"5xx after creating", Fault{Status: 500, When: StageAfter}, 1, false, "FLOW-1102-500"},
		{"status without a code of its own", Fault{Status: 502}, 0, false, "FLOW-1102-502"},
		{"code of another family", Fault{Status: 500, Code: "CONNECTOR-2001-500"}, 0, false, "/CONNECTOR-2001-500"},
		{"HTML", Fault{Status: 502, Body: BodyHTML}, 0, false, "<h1>502 Bad Gateway</h1>"},
		{"HTML after creating", Fault{Status: 504, Body: BodyHTML, When: StageAfter}, 1, false, "<html>"},
		{"empty", Fault{Status: 503, Body: BodyEmpty}, 0, false, ""},
		{"problem", Fault{Status: 500, Body: BodyProblem}, 0, false, `"/placeholder/type/uri"`},
		{"IMS shape", Fault{Status: 400, Body: BodyIMS, Code: "invalid_scope"}, 0, false, `"error":"invalid_scope"`},
		{"gateway without a known code", Fault{Status: 502, Body: BodyGateway}, 0, false, `"error_code":"502000"`},
		{"200 instead of 201", Fault{Status: 200, Body: BodyNormal, When: StageAfter}, 1, true, `"etag"`},
		{"201 without id", Fault{Status: 201, Body: BodyNoID, When: StageAfter}, 1, true, "{}"},
		{"201 unreadable", Fault{Status: 201, Body: BodyGarbage, When: StageAfter}, 1, false, `{"id": "`},
		{"201 empty", Fault{Status: 201, Body: BodyEmpty, When: StageAfter}, 1, false, ""},
		{"placeholders", Fault{Status: 404}, 0, false, "The requested ? resource"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			tt.fault.Effect, tt.fault.Operation = EffectStatus, OpCreate
			b.em.AddFault(tt.fault)
			r, err := b.post("a")
			if err != nil {
				t.Fatal(err)
			}
			r.want(t, tt.fault.Status)
			if got := r.header.Get("Location") != ""; got != tt.location {
				t.Errorf("Location there: %t, want %t", got, tt.location)
			}
			if !strings.Contains(string(r.body), tt.body) || (tt.body == "") != (len(r.body) == 0) {
				t.Errorf("body = %q, want %q in it", r.body, tt.body)
			}
			b.wantStored(tt.left)
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for want, f := range map[string]Fault{
		"":                              {},
		"3":                             {RetryAfter: 2500 * time.Millisecond},
		"Tue, 04 Nov 2025 15:26:41 GMT": {RetryAfter: 5 * time.Second, RetryAfterDate: true},
		"soon":                          {Header: map[string]string{"Retry-After": "soon"}},
	} {
		f.Effect, f.Status, f.Body = EffectStatus, 429, BodyGateway
		b.em.SetFaults(f)
		if got := b.get("/connections").want(t, 429).header.Get("Retry-After"); got != want {
			t.Errorf("Retry-After = %q, want %q", got, want)
		}
	}
}

func TestProviderRefusals(t *testing.T) {
	t.Parallel()
	for effect, want := range map[Effect][]string{
		EffectClusterStopped: {"0712-091500-exmpl123 is not running", "TEMPORARILY_UNAVAILABLE"},
		EffectBadCredentials: {"Invalid access token"},
	} {
		t.Run(string(effect), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			one := "/connections/" + b.create("a").ID
			b.em.AddFault(Fault{Effect: effect})
			refused, _ := b.post("b")
			for _, r := range []reply{refused, b.get(one + "/explore?objectType=root")} {
				r.want(t, 400).wantCode(t, "1308-400")
				for _, text := range want {
					if !strings.Contains(string(r.body), text) {
						t.Errorf("%q is not in %s", text, r.body)
					}
				}
			}
			wantGolden(t, "connection-test-200-bad", b.get(one+"/test").want(t, 200).body)
			b.get("/connections/none/test").want(t, 404)
			b.wantStored(1)
		})
	}
}

func TestExpiredTokenFault(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddToken(provision.NewSensitive("second"), testOrg, testKey)
	b.em.AddFault(Fault{Effect: EffectExpiredToken, Times: 1})
	b.get("/connections").want(t, 401)
	b.get("/connections").want(t, 401) // the token stays invalid
	b.do("GET", "/connections", "", map[string]string{"Authorization": "Bearer second"}).want(t, 200)
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectTruncate, Bytes: 4})
	b.do(http.MethodPost, "/connections", createJSON("a", "abcäöü [flow-worker 00]"), nil).want(t, 201)
	if got := b.em.Connections()[0].Description; got != "abc" {
		t.Errorf("description = %q, want it cut before the character that does not fit", got)
	}
	b.em.SetFaults(Fault{Effect: EffectTruncate})
	b.do(http.MethodPost, "/connections", createJSON("b", "abc"), nil).want(t, 201)
	if got := b.em.Connections()[1].Description; got != "" {
		t.Errorf("description = %q, want none", got)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddToken(provision.NewSensitive("other"), "OTHER@AdobeOrg", testKey)
	b.em.AddFault(Fault{Operation: OpList, Effect: EffectRateLimit, PerSecond: 2, RetryAfter: time.Second})
	statuses := func(header map[string]string) (out []int) {
		for range 3 {
			out = append(out, b.do("GET", "/connections", "", header).status)
		}
		return out
	}
	limited := []int{200, 200, 429}
	if got := statuses(nil); !slices.Equal(got, limited) {
		t.Errorf("statuses = %d, want %d", got, limited)
	}
	other := map[string]string{"Authorization": "Bearer other", "x-gw-ims-org-id": "OTHER@AdobeOrg"}
	if got := statuses(other); !slices.Equal(got, limited) {
		t.Errorf("of another organization: statuses = %d, want %d", got, limited)
	}
	b.clock.advance(time.Second)
	if got := statuses(nil); !slices.Equal(got, limited) {
		t.Errorf("a second later: statuses = %d, want %d", got, limited)
	}
}

// TestHabitsOfStoring: what is sent, and what is shown of it.
func TestHabitsOfStoring(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for habit, want := range map[Habit][2]string{
		HabitLowerNames:        {" u\u0308ber  alles\u200b ", "A  [b] C"},
		HabitComposedNames:     {" \u00dcber  Alles\u200b ", "A  [b] C"},
		HabitPlainNames:        {"U\u0308ber Alles", "A  [b] C"},
		HabitCutNames:          {" U", "A  [b] C"},
		HabitLowerDescriptions: {" U\u0308ber  Alles\u200b ", "a  [b] c"},
		HabitUpperDescriptions: {" U\u0308ber  Alles\u200b ", "A  [B] C"},
		HabitPlainDescriptions: {" U\u0308ber  Alles\u200b ", "A [b] C"},
		HabitEscaped:           {" U\u0308ber  Alles\u200b ", "A  &#91;b&#93; C"},
		HabitLowerIDs:          {" U\u0308ber  Alles\u200b ", "A  [b] C"},
	} {
		b.em.SetFaults(Fault{Operation: OpCreate, Effect: EffectStore, Habits: []Habit{habit}, Bytes: 3})
		body := createJSON(" U\u0308ber  Alles\u200b ", "A  [b] C")
		if habit == HabitLowerIDs {
			body = strings.ReplaceAll(body, DatabricksSpecID, strings.ToUpper(DatabricksSpecID))
		}
		b.do(http.MethodPost, "/connections", body, nil).want(t, 201)
		got := b.em.Connections()
		last := got[len(got)-1]
		if diff := cmp.Diff(want, [2]string{last.Name, last.Description}); diff != "" {
			t.Errorf("%s: %s", habit, diff)
		}
	}
}

// TestHabitsOfLists: they leave out, order and filter as they like; GET by id shows everything.
func TestHabitsOfLists(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var ids []string
	for _, name := range []string{"Orders", "orders", "other"} {
		ids = append(ids, b.create(name).ID)
	}
	b.em.SetFaults(Fault{Operation: OpList, Effect: EffectOmit, Fields: []string{"description", "auth", "state", "createdAt"}},
		Fault{Operation: OpList, Effect: EffectUnordered}, Fault{Operation: OpList, Effect: EffectFoldNames})
	var list struct {
		Items []map[string]any `json:"items"`
	}
	b.get("/connections?orderby=-createdAt").decode(t, &list)
	var got []string
	for _, i := range list.Items {
		got = append(got, i["id"].(string))
		for _, f := range []string{"description", "auth", "state", "createdAt"} {
			if _, there := i[f]; there {
				t.Errorf("%s is listed", f)
			}
		}
	}
	slices.Sort(ids)
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("not by id: %s", diff)
	}
	if names := b.names(query("name==ORDERS")); len(names) != 2 {
		t.Errorf("by name: %v", names)
	}
	if body := string(b.get("/connections/" + ids[0]).body); !strings.Contains(body, `"state"`) || !strings.Contains(body, `"createdAt"`) {
		t.Errorf("by id: %s", body)
	}
	b.em.SetFaults(Fault{Operation: OpList, Effect: EffectRefuseQuery, Fields: []string{"property", "orderby", "limit"}})
	for q, code := range map[string]string{query("name==x"): "1449-400", "/connections?orderby=-createdAt": "1433-400", "/connections?limit=5": "1451-400"} {
		b.get(q).want(t, 400).wantCode(t, code)
	}
	b.get("/connections").want(t, 200)
}

func TestStatesAndUniqueNames(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.SetFaults(Fault{Effect: EffectState, State: "draft"})
	b.create("orders")
	b.em.SetFaults(Fault{Effect: EffectState, State: "disabled"}, Fault{Effect: EffectUniqueNames})
	b.create("others")
	for name, state := range map[string]string{"orders": "draft", "others": "disabled"} {
		if body := string(b.get(query("name==" + name)).body); !strings.Contains(body, `"state":"`+state+`"`) {
			t.Errorf("%s: %s", name, body)
		}
	}
	r := b.do(http.MethodPost, "/connections", createJSON("orders", ""), nil).want(t, 409)
	if !strings.Contains(string(r.body), "A connection with the name 'orders' already exists.") || len(b.em.Connections()) != 2 {
		t.Errorf("%s", r.body)
	}
	b.em.SetFaults(Fault{Effect: EffectUniqueNames, Status: 422, Message: "name is not unique"})
	b.do(http.MethodPost, "/connections", createJSON("orders", ""), nil).want(t, 422)
}

func TestListLag(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(*bed){
		"config":          func(b *bed) { b.em.cfg.ListLag = time.Minute },
		"fault on create": func(b *bed) { b.em.AddFault(Fault{Operation: OpCreate, Effect: EffectListLag, Delay: time.Minute}) },
		"fault on list":   func(b *bed) { b.em.AddFault(Fault{Operation: OpList, Effect: EffectListLag, Delay: time.Minute}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			arrange(b)
			made := b.create("a")
			b.clock.advance(time.Minute - 1)
			b.get("/connections/"+made.ID).want(t, 200)
			if got := b.names(query("name==a")); len(got) != 0 {
				t.Errorf("listed too early: %q", got)
			}
			b.clock.advance(1)
			if got := b.names(query("name==a")); len(got) != 1 {
				t.Errorf("not listed after the lag: %q", got)
			}
		})
	}
}

func TestInitializing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectInitializing, Delay: time.Minute})
	made := b.create("a")
	one := "/connections/" + made.ID
	b.do("DELETE", one, "", nil).want(t, 400).wantCode(t, "1417-400")
	b.do("PATCH", one, `[]`, map[string]string{"If-Match": made.Etag}).want(t, 400).wantCode(t, "1417-400")
	if got := b.names(query("state==initializing")); len(got) != 1 {
		t.Errorf("initializing connections: %q, want one", got)
	}
	b.clock.advance(time.Minute)
	if got := b.names(query("state==enabled")); len(got) != 1 {
		t.Errorf("enabled connections: %q, want one", got)
	}
	b.do("DELETE", one, "", nil).want(t, 204)
}

// TestLatency shows that every latency is waited for, once each, and before what.
func TestLatency(t *testing.T) {
	t.Parallel()
	type nap struct {
		For    time.Duration
		Stored int
	}
	naps := make(chan nap, 2)
	var b *bed
	b = newBed(t, func(c *Config) {
		c.Latency = time.Second
		c.Sleep = func(_ context.Context, d time.Duration) error {
			naps <- nap{d, len(b.em.Connections())}
			return nil
		}
	})
	b.em.SetFaults(
		Fault{Effect: EffectLatency, Delay: 2 * time.Second},
		Fault{Effect: EffectLatency, Delay: 5 * time.Second, When: StageAfter},
	)
	b.create("a")
	if diff := cmp.Diff([]nap{{3 * time.Second, 0}, {5 * time.Second, 1}}, []nap{<-naps, <-naps}); diff != "" {
		t.Errorf("naps (-want +got):\n%s", diff)
	}
}

// TestLatencyOutlivesClient shows that a client that gives up does not stop the work.
func TestLatencyOutlivesClient(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectLatency, Delay: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := b.try(ctx, http.MethodPost, "/connections", createJSON("a", ""), nil)
		done <- err
	}()
	b.wait(func(e *Emulator) bool { return e.Count(OpCreate) == 1 })
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want it cancelled", err)
	}
	b.wait(func(e *Emulator) bool { return len(e.Connections()) == 1 })
}
