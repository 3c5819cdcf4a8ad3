package flowtest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSelection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fault Fault
		want  bool
	}{
		{"operation", Fault{Operation: OpCreate}, true},
		{"any", Fault{Operation: OpAny}, true},
		{"other operation", Fault{Operation: OpList}, false},
		{"name", Fault{Name: "dbx-1"}, true},
		{"other name", Fault{Name: "dbx-"}, false},
		{"prefix", Fault{NamePrefix: "dbx-"}, true},
		{"other prefix", Fault{NamePrefix: "bq-"}, false},
		{"org", Fault{OrgID: testOrg}, true},
		{"other org", Fault{OrgID: "OTHER@AdobeOrg"}, false},
		{"sandbox", Fault{Sandbox: testSandbox}, true},
		{"other sandbox", Fault{Sandbox: "prod"}, false},
		{"one of several", Fault{Sandbox: testSandbox, Name: "other"}, false},
		{"skipped", Fault{Skip: 1}, false},
		{"never by chance", Fault{Probability: 1e-12}, false},
		{"always by chance", Fault{Probability: 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			tt.fault.Effect, tt.fault.Status = EffectStatus, 500
			b.em.AddFault(tt.fault)
			r, err := b.post("dbx-1")
			if err != nil || (r.status == 500) != tt.want {
				t.Errorf("status = %d, %v, want it struck: %t", r.status, err, tt.want)
			}
		})
	}
}

// TestSelectionByName shows where the name comes from in calls that have none in their body.
func TestSelectionByName(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	mine, other := "/connections/"+b.create("mine").ID, "/connections/"+b.create("other").ID
	b.em.AddFault(Fault{Name: "mine", Effect: EffectStatus, Status: 500})
	for path, want := range map[string]int{
		mine: 500, mine + "/test": 500, other: 200, "/connections/none": 404, "/connections": 200, "/connectionSpecs": 200,
		query("name==mine"): 500, query(`name=="mine"`): 500, query("state==enabled", "name==mine"): 500, query("name==other"): 200,
	} {
		b.get(path).want(t, want)
	}
}

func TestSkipTimesAndRemove(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	remove := b.em.AddFault(Fault{Operation: OpList, Effect: EffectStatus, Status: 500, Skip: 1, Times: 2})
	always := b.em.AddFault(Fault{Operation: OpGet, Effect: EffectStatus, Status: 503})
	var got []int
	for range 5 {
		got = append(got, b.get("/connections").status)
	}
	if want := []int{200, 500, 500, 200, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses = %d, want %d", got, want)
	}
	remove()
	remove()
	b.get("/connections/none").want(t, 503)
	always()
	b.get("/connections/none").want(t, 404)
}

func TestProbabilityIsSeeded(t *testing.T) {
	t.Parallel()
	run := func() (out []int) {
		b := newBed(t)
		b.em.AddFault(Fault{Effect: EffectStatus, Status: 500, Probability: 0.5})
		for range 40 {
			out = append(out, b.get("/connections").status)
		}
		return out
	}
	first := run()
	if second := run(); !slices.Equal(first, second) {
		t.Errorf("the same seed gave %d, then %d", first, second)
	}
	if !slices.Contains(first, 200) || !slices.Contains(first, 500) {
		t.Errorf("statuses = %d, want both kinds", first)
	}
}

func TestFaultsCombine(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.SetFaults(
		Fault{Effect: EffectTruncate, Bytes: 2},
		Fault{Effect: EffectReset, When: StageAfter, Times: 1},
		Fault{Effect: EffectStatus, Status: 500},
	)
	if _, err := b.post("a"); !cut(err) {
		t.Fatalf("err = %v, want a reset connection", err)
	}
	if all := b.em.Connections(); len(all) != 1 || all[0].Description != "ab" {
		t.Errorf("connections = %v, want one, with its description cut", all)
	}
	b.get("/connections").want(t, 500)
}

// TestAfterNeedsSuccess shows that a failed create is told as such.
func TestAfterNeedsSuccess(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectReset, When: StageAfter})
	b.do(http.MethodPost, "/connections", "", nil).want(t, 400).wantCode(t, "1405-400")
}

func TestFaultJSON(t *testing.T) {
	t.Parallel()
	f := Fault{
		Operation: OpCreate, Name: "a", NamePrefix: "b", OrgID: "c", Sandbox: "d", Skip: 1, Times: 2, Probability: 0.5,
		Effect: EffectStatus, When: StageAfter, Delay: time.Minute, Status: 429, Body: BodyGateway, Code: "429050",
		Message: "m", Header: map[string]string{"k": "v"}, RetryAfter: 1500 * time.Millisecond, RetryAfterDate: true,
		Bytes: 3, PerSecond: 4,
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"delay":"1m0s"`) || !strings.Contains(string(text), `"retryAfter":"1.5s"`) {
		t.Errorf("durations are not readable: %s", text)
	}
	var back Fault
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaultValidate(t *testing.T) {
	t.Parallel()
	status := Fault{Effect: EffectStatus, Status: 500}
	with := func(change func(*Fault)) Fault { f := status; change(&f); return f }
	for want, f := range map[string]Fault{
		"operation":                  with(func(f *Fault) { f.Operation = "crate" }),
		`effect "" is none of`:       {},
		"cannot have when":           {Effect: EffectTruncate, When: StageAfter},
		"cannot select by name":      {Effect: EffectReset, When: StageUnread, Name: "a"},
		"skip and times":             with(func(f *Fault) { f.Times = -1 }),
		"probability":                with(func(f *Fault) { f.Probability = 1.5 }),
		"must not be negative":       with(func(f *Fault) { f.RetryAfter = -1 }),
		"needs a delay":              {Effect: EffectLatency},
		"a status from 200 to 599":   with(func(f *Fault) { f.Status = 101 }),
		"needs a body of":            with(func(f *Fault) { f.Body = "xml" }),
		"there is no answer yet":     with(func(f *Fault) { f.Body = BodyNoID }),
		"a code of digits":           with(func(f *Fault) { f.Body, f.Code = BodyGatewayNumber, "abc" }),
		"headers without line break": with(func(f *Fault) { f.Header = map[string]string{"a": "b\nc"} }),
		"needs perSecond":            {Effect: EffectRateLimit},
		"needs bytes":                {Effect: EffectTruncate, Bytes: -1},
		"needs habits of":            {Effect: EffectStore, Habits: []Habit{"name_upper"}},
		"needs a state":              {Effect: EffectState},
		"from 400 to 499":            {Effect: EffectUniqueNames, Status: 500},
		"needs fields of":            {Effect: EffectOmit, Fields: []string{"id"}},
		`fields of ["property"`:      {Effect: EffectRefuseQuery},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	if err := status.Validate(); err != nil {
		t.Error(err)
	}
}

func TestInvalidFaultPanics(t *testing.T) {
	t.Parallel()
	em := New(Config{})
	for name, call := range map[string]func(){
		"AddFault":  func() { em.AddFault(Fault{}) },
		"SetFaults": func() { em.SetFaults(Fault{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s accepted a fault without effect", name)
				}
			}()
			call()
		}()
	}
}
