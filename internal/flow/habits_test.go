package flow_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// The hub over the real client and the emulator with its habits: the answer to the one POST is lost, and its
// connection is found all the same, or is not taken for absent.

// records is a ledger in memory.
type records struct {
	mu  sync.Mutex
	rec map[provision.Key]provision.Record
	rev map[provision.Key]uint64
}

func newRecords() *records {
	return &records{rec: map[provision.Key]provision.Record{}, rev: map[provision.Key]uint64{}}
}

func (r *records) Load(_ context.Context, k provision.Key) (provision.Record, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.rec[k]
	if !ok {
		return rec, 0, provision.ErrNoRecord
	}
	return rec, r.rev[k], nil
}

func (r *records) Store(_ context.Context, k provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rev[k] != rev {
		return 0, provision.ErrConflict
	}
	r.rec[k] = rec
	r.rev[k]++
	return r.rev[k], nil
}

// knownSecrets are those of account and connection.
type knownSecrets struct{}

func (knownSecrets) Credentials(context.Context, string, bool) (provision.Credentials, error) {
	return account().Credentials, nil
}

func (knownSecrets) Resolve(context.Context, string, provision.SecretRef, bool) (provision.Secret, error) {
	return provision.Secret{Value: connection("").AccessToken, Version: 1}, nil
}

func habitualRequest() provision.Request {
	c := connection("Bestellungen fu\u0308r  M\u00fcller")
	return provision.Request{
		Key: provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}, Fingerprint: "f",
		Data: provision.Data{
			Sandbox: account().Sandbox, Name: c.Name, Description: "All  the <b>Orders</b>", ConnectionSpec: c.ConnectionSpec,
			Auth: provision.Auth{SpecName: c.SpecName, Params: c.Params},
		},
	}
}

// handle works on r until it has an outcome.
func handle(t *testing.T, c *flow.Client, r provision.Request, change func(*provision.Config)) provision.Result {
	t.Helper()
	cfg := provision.Config{
		Ledger: newRecords(), Secrets: knownSecrets{}, Connections: c, Instance: "w", FlowTimeout: 20 * time.Second,
		Settle: 100 * time.Millisecond, RetryInitial: time.Millisecond, RetryDelayMax: 50 * time.Millisecond,
		RetryElapsed: time.Minute, RedeliveryDelayMax: 50 * time.Millisecond, RequestDeadline: time.Minute,
	}
	if change != nil {
		change(&cfg)
	}
	h, err := provision.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); ; n++ {
		out := h.Handle(t.Context(), provision.Delivery{Request: r, Seq: 1, Delivered: n, EnteredAt: time.Now()})
		if out.Result != nil {
			return *out.Result
		}
		select {
		case <-time.After(out.Delay):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func stores(h ...flowtest.Habit) flowtest.Fault {
	return flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStore, Habits: h, Bytes: 12}
}

func omits(fields ...string) flowtest.Fault {
	return flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectOmit, Fields: fields}
}

func refuses(params ...string) flowtest.Fault {
	return flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectRefuseQuery, Fields: params}
}

var answerLost = flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Times: 1}

func TestLostAnswersOverHabits(t *testing.T) {
	t.Parallel()
	upper := func(r *provision.Request) {
		r.Data.ConnectionSpec.ID = strings.ToUpper(r.Data.ConnectionSpec.ID)
	}
	cut := flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectTruncate, Bytes: 45}
	for name, tc := range map[string]struct {
		faults []flowtest.Fault
		change func(*provision.Request)
		reason provision.Reason // empty: created
	}{
		"as sent":                 {nil, nil, ""},
		"ids in small letters":    {[]flowtest.Fault{stores(flowtest.HabitLowerIDs)}, upper, ""},
		"names in small letters":  {[]flowtest.Fault{stores(flowtest.HabitLowerNames, flowtest.HabitComposedNames, flowtest.HabitPlainNames)}, nil, ""},
		"all otherwise":           {[]flowtest.Fault{stores(flowtest.HabitLowerIDs, flowtest.HabitLowerNames, flowtest.HabitUpperDescriptions, flowtest.HabitPlainDescriptions)}, upper, ""},
		"names cut":               {[]flowtest.Fault{stores(flowtest.HabitCutNames)}, nil, ""},
		"descriptions escaped":    {[]flowtest.Fault{stores(flowtest.HabitEscaped)}, nil, ""},
		"lists without much":      {[]flowtest.Fault{stores(flowtest.HabitLowerNames), omits("name", "description", "auth", "state", "connectionSpec")}, nil, ""},
		"lists without times":     {[]flowtest.Fault{stores(flowtest.HabitLowerNames), omits("createdAt", "description")}, nil, ""},
		"lists in no order":       {[]flowtest.Fault{stores(flowtest.HabitLowerNames), {Operation: flowtest.OpList, Effect: flowtest.EffectUnordered}}, nil, ""},
		"filters refused":         {[]flowtest.Fault{refuses("property")}, nil, ""},
		"nothing but lists":       {[]flowtest.Fault{refuses("property", "orderby", "limit")}, nil, ""},
		"names without case":      {[]flowtest.Fault{stores(flowtest.HabitLowerNames), {Operation: flowtest.OpList, Effect: flowtest.EffectFoldNames}}, nil, ""},
		"drafts":                  {[]flowtest.Fault{{Operation: flowtest.OpCreate, Effect: flowtest.EffectState, State: "draft"}}, nil, ""},
		"marks cut":               {[]flowtest.Fault{cut}, nil, provision.ReasonOutcomeUnknown},
		"marks cut, names, too":   {[]flowtest.Fault{cut, stores(flowtest.HabitCutNames)}, nil, provision.ReasonOutcomeUnknown},
		"no descriptions":         {[]flowtest.Fault{{Operation: flowtest.OpCreate, Effect: flowtest.EffectTruncate}, stores(flowtest.HabitLowerNames)}, nil, provision.ReasonOutcomeUnknown},
		"a gateway's 404 instead": {[]flowtest.Fault{{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, When: flowtest.StageAfter, Status: 404, Body: flowtest.BodyHTML, Times: 1}}, nil, ""},
		"exists already": {[]flowtest.Fault{{Operation: flowtest.OpCreate, Effect: flowtest.EffectStatus, When: flowtest.StageAfter, Status: 400,
			Body: flowtest.BodyLegacy, Message: "name already exists", Times: 1}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, c := start(t, flowtest.Config{})
			for i := range 45 { // what was there before, and is not ours
				if _, err := create(t, c, fmt.Sprint("other ", i%7), time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			e.SetFaults(append(tc.faults, answerLost)...)
			r := habitualRequest()
			if tc.change != nil {
				tc.change(&r)
			}
			res := handle(t, c, r, func(cfg *provision.Config) {
				if tc.reason != "" {
					cfg.RequestDeadline = time.Second
				}
			})
			switch {
			case tc.reason == "" && (res.Error != nil || !res.Adopted):
				t.Errorf("%+v %v, want it to be adopted", res, res.Error)
			case tc.reason != "" && (res.Error == nil || res.Error.Reason != tc.reason):
				t.Errorf("%v, want %s", res.Error, tc.reason)
			}
			if n := e.Count(flowtest.OpCreate) - 45; n != 1 {
				t.Errorf("%d POSTs, want one", n)
			}
		})
	}
}

// TestExistsAlready: names are unique after all, and another's connection has this one.
func TestExistsAlready(t *testing.T) {
	t.Parallel()
	e, c := start(t, flowtest.Config{})
	r := habitualRequest()
	if _, err := create(t, c, r.Data.Name, time.Minute); err != nil {
		t.Fatal(err)
	}
	e.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectUniqueNames})
	res := handle(t, c, r, nil)
	if res.Error == nil || res.Error.Reason != provision.ReasonFlowRejected || res.Error.HTTPStatus != 409 || res.Attempts != 2 || !strings.Contains(res.Error.Message, "already exists") {
		t.Errorf("%+v after %d POSTs", res.Error, res.Attempts)
	}
}

// TestAdoptOverStates: a draft is no connection to be used, whatever the list leaves out.
func TestAdoptOverStates(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		state  string
		faults []flowtest.Fault
		adopts bool
	}{
		"enabled":               {"", nil, true},
		"enabled, not listed":   {"", []flowtest.Fault{omits("state", "auth")}, true},
		"a draft":               {"draft", nil, false},
		"a draft, not listed":   {"draft", []flowtest.Fault{omits("state")}, false},
		"disabled":              {"disabled", nil, false},
		"a state nobody knows":  {"enabled-finalizing", nil, false},
		"capitals":              {"ENABLED", nil, true},
		"enabled, other letter": {"", []flowtest.Fault{{Operation: flowtest.OpList, Effect: flowtest.EffectFoldNames}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, c := start(t, flowtest.Config{})
			r := habitualRequest()
			r.Data.IfExists = provision.IfExistsAdopt
			if tc.state != "" {
				e.SetFaults(flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectState, State: tc.state})
			}
			made, err := create(t, c, r.Data.Name, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			e.SetFaults(tc.faults...)
			res := handle(t, c, r, nil)
			switch {
			case tc.adopts && (res.Error != nil || res.Connection.ID != made.ID):
				t.Errorf("%v, want %s", res.Error, made.ID)
			case !tc.adopts && (res.Error == nil || res.Error.Reason != provision.ReasonNameExists || !strings.Contains(res.Error.Message, tc.state)):
				t.Errorf("%+v, want it refused for its state", res.Error)
			}
		})
	}
}
