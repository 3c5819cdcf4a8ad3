package flow_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// start returns an emulator and a client of it.
func start(t *testing.T, cfg flowtest.Config) (*flowtest.Emulator, *flow.Client) {
	t.Helper()
	e := flowtest.New(cfg)
	e.AddClient(flowtest.Client{OrgID: "ORG@AdobeOrg", ClientID: "client-id", ClientSecret: provision.NewSensitive("client-secret-0123"), Scopes: "openid,session"})
	s := httptest.NewServer(e)
	c, err := flow.New(flow.Config{
		BaseURL: s.URL + "/data/foundation/flowservice", IMSURL: s.URL, Timeout: 20 * time.Second,
		RetryInitial: time.Microsecond, RetryMax: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.CloseClientConnections(); s.Close() })
	t.Logf("emulator seed %d", e.Seed())
	return e, c
}

func account() provision.Account {
	return provision.Account{Tenant: "acme", Sandbox: "dev-eu", Credentials: provision.Credentials{
		OrgID: "ORG@AdobeOrg", ClientID: "client-id", ClientSecret: provision.NewSensitive("client-secret-0123"), Scopes: "openid,session",
	}}
}

func connection(name string) provision.NewConnection {
	return provision.NewConnection{
		Name: name, Description: "x [flow-worker 00112233445566778899aabbccddeeff]", SpecName: "Access Token Authentication",
		Params:         provision.Params{Domain: "https://adb-1.3.azuredatabricks.net", ClusterID: "0712-091500-x", Database: "db", Catalog: "main"},
		AccessToken:    provision.NewSensitive("dapi-not-a-token-0123456789"),
		ConnectionSpec: provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"},
	}
}

func create(t *testing.T, c *flow.Client, name string, within time.Duration) (provision.Connection, *provision.CallError) {
	t.Helper()
	made, err := c.Create(t.Context(), account(), connection(name), time.Now().Add(within))
	var cerr *provision.CallError
	if err != nil && !errors.As(err, &cerr) {
		t.Fatalf("error is %T, want *provision.CallError", err)
	}
	return made, cerr
}

func TestEmulatorCreateThenFind(t *testing.T) {
	t.Parallel()
	e, c := start(t, flowtest.Config{LiteralPlus: true})
	for _, name := range []string{"plain", "two words", "a+b 50%", "ümläut, with comma", `say "hi" & bye`, "a=b>c~d"} {
		made, cerr := create(t, c, name, time.Minute)
		if cerr != nil {
			t.Fatalf("%s: %v", name, cerr)
		}
		spec := connection(name).ConnectionSpec
		found, err := c.Find(t.Context(), account(), provision.Query{Names: []string{name}, SpecID: spec.ID})
		found = slices.DeleteFunc(found, func(f provision.Found) bool { return f.Name != name }) // not every name can be filtered by
		if err != nil || len(found) != 1 || found[0].CreatedAt.IsZero() {
			t.Fatalf("%s: %+v, %v; want one", name, found, err)
		}
		want := provision.Found{
			Connection: made, Name: name, Description: connection(name).Description, CreatedAt: found[0].CreatedAt, State: "enabled",
			SpecID: spec.ID, SpecVersion: spec.Version, Domain: "https://adb-1.3.azuredatabricks.net", ClusterID: "0712-091500-x", Database: "db", Catalog: "main",
		}
		if diff := cmp.Diff(want, found[0]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, s := range e.Connections() {
		if s.AccessToken.Reveal() != "dapi-not-a-token-0123456789" {
			t.Errorf("%s: stored with another token", s.Name)
		}
	}
	if n := e.Count(flowtest.OpToken); n != 1 {
		t.Errorf("%d tokens fetched, want 1", n)
	}
}

func TestEmulatorPages(t *testing.T) {
	t.Parallel()
	e, c := start(t, flowtest.Config{})
	const n = 205
	for i := range n {
		if _, err := create(t, c, fmt.Sprintf("c %d", i%3), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"": n, "c 0": 69, "c 2": 68, "C 0": 0} {
		found, err := c.Find(t.Context(), account(), provision.Query{Names: []string{name}})
		if err != nil || len(found) != want {
			t.Errorf("%q: %d found, %v; want %d", name, len(found), err, want)
		}
	}
	if got := e.Count(flowtest.OpList); got != 3+3 {
		t.Errorf("%d list calls, want 6", got)
	}
}

// TestEmulatorVerdictsAreTrue: whatever goes wrong, one Create is one POST at most, and an error that
// says that nothing was made is right.
func TestEmulatorVerdictsAreTrue(t *testing.T) {
	t.Parallel()
	for _, f := range faults() {
		t.Run(fmt.Sprintf("%s %s %d %s", f.Effect, f.When, f.Status, f.Body), func(t *testing.T) {
			t.Parallel()
			e, c := start(t, flowtest.Config{})
			if err := f.Validate(); err != nil {
				t.Fatal(err)
			}
			f.Operation = flowtest.OpCreate
			e.AddFault(f)
			within := time.Minute
			if f.Effect == flowtest.EffectHang {
				within = time.Second
			}
			made, err := create(t, c, "orders", within)
			if n := e.Count(flowtest.OpCreate); n != 1 {
				t.Errorf("%d POSTs, want 1", n)
			}
			checkTrue(t, e.Connections(), made, err)
		})
	}
}

// faults are all the ways in which the emulator can spoil a create.
func faults() []flowtest.Fault {
	list := []flowtest.Fault{
		{Effect: flowtest.EffectClusterStopped}, {Effect: flowtest.EffectBadCredentials}, {Effect: flowtest.EffectExpiredToken},
		{Effect: flowtest.EffectTruncate, Bytes: 5}, {Effect: flowtest.EffectInitializing, Delay: time.Hour},
		{Effect: flowtest.EffectLatency, Delay: time.Millisecond, When: flowtest.StageAfter},
		{Effect: flowtest.EffectHang}, {Effect: flowtest.EffectHang, When: flowtest.StageAfter},
	}
	for _, when := range []flowtest.Stage{flowtest.StageUnread, flowtest.StageBefore, flowtest.StageAfter} {
		list = append(list, flowtest.Fault{Effect: flowtest.EffectReset, When: when})
	}
	for _, body := range []flowtest.BodyKind{
		flowtest.BodyFlow, flowtest.BodyGateway, flowtest.BodyGatewayNumber, flowtest.BodyLegacy,
		flowtest.BodyProblem, flowtest.BodyIMS, flowtest.BodyHTML, flowtest.BodyEmpty, flowtest.BodyGarbage,
	} {
		for _, status := range []int{400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504} {
			list = append(list, flowtest.Fault{Effect: flowtest.EffectStatus, Status: status, Body: body})
		}
		for _, status := range []int{408, 500, 503} {
			list = append(list, flowtest.Fault{Effect: flowtest.EffectStatus, Status: status, Body: body, When: flowtest.StageAfter})
		}
	}
	for _, body := range []flowtest.BodyKind{flowtest.BodyNormal, flowtest.BodyNoID, flowtest.BodyGarbage, flowtest.BodyEmpty} {
		list = append(list, flowtest.Fault{Effect: flowtest.EffectStatus, Status: 200, Body: body, When: flowtest.StageAfter})
	}
	return list
}

func checkTrue(t *testing.T, stored []flowtest.Stored, made provision.Connection, err *provision.CallError) {
	t.Helper()
	switch {
	case err == nil && (len(stored) != 1 || stored[0].ID != made.ID):
		t.Errorf("success with %+v, but stored is %+v", made, stored)
	case err != nil && err.Verdict != provision.VerdictUnknown && len(stored) != 0:
		t.Errorf("verdict %v, but it was made: %v", err.Verdict, err)
	case err != nil && made != (provision.Connection{}):
		t.Errorf("an error and a connection: %v, %+v", err, made)
	}
}

func TestEmulatorVerdicts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault flowtest.Fault
		want  provision.Verdict
	}{
		"cluster stopped": {flowtest.Fault{Effect: flowtest.EffectClusterStopped}, provision.VerdictNotReady},
		"bad credentials": {flowtest.Fault{Effect: flowtest.EffectBadCredentials}, provision.VerdictRejected},
		"expired token":   {flowtest.Fault{Effect: flowtest.EffectExpiredToken}, provision.VerdictUnauthorized},
		"throttled":       {flowtest.Fault{Effect: flowtest.EffectStatus, Status: 429, RetryAfter: 7 * time.Second, RetryAfterDate: true}, provision.VerdictThrottled},
		"reset, unread":   {flowtest.Fault{Effect: flowtest.EffectReset, When: flowtest.StageUnread}, provision.VerdictUnknown},
		"no token":        {flowtest.Fault{Operation: flowtest.OpToken, Effect: flowtest.EffectStatus, Status: 400}, provision.VerdictDenied},
		"IMS down":        {flowtest.Fault{Operation: flowtest.OpToken, Effect: flowtest.EffectStatus, Status: 503}, provision.VerdictNotSent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, c := start(t, flowtest.Config{})
			if tc.fault.Operation == "" {
				tc.fault.Operation = flowtest.OpCreate
			}
			e.AddFault(tc.fault)
			_, err := create(t, c, "orders", time.Minute)
			if err == nil || err.Verdict != tc.want {
				t.Errorf("%+v, want %v", err, tc.want)
			}
			if tc.fault.RetryAfter != 0 && (err.RetryAfter <= 0 || err.RetryAfter > 8*time.Second) {
				t.Errorf("retry after %v, want about 7 s", err.RetryAfter)
			}
		})
	}
}

func TestEmulatorTokensExpire(t *testing.T) {
	t.Parallel()
	e, c := start(t, flowtest.Config{})
	if _, err := c.Find(t.Context(), account(), provision.Query{}); err != nil {
		t.Fatal(err)
	}
	e.ExpireTokens()
	if _, err := c.Find(t.Context(), account(), provision.Query{}); err != nil {
		t.Errorf("after expiry: %v", err)
	}
	if n := e.Count(flowtest.OpToken); n != 2 {
		t.Errorf("%d tokens fetched, want 2", n)
	}
}

// TestEmulatorListLags: the look-up tells truly what the list shows, not what should be there.
func TestEmulatorListLags(t *testing.T) {
	t.Parallel()
	e, c := start(t, flowtest.Config{ListLag: time.Hour})
	if _, err := create(t, c, "orders", time.Minute); err != nil {
		t.Fatal(err)
	}
	found, err := c.Find(context.Background(), account(), provision.Query{Names: []string{"orders"}})
	if err != nil || len(found) != 0 || len(e.Connections()) != 1 {
		t.Errorf("%+v, %v: want none listed, one stored", found, err)
	}
}

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

func TestEmulatorSpec(t *testing.T) {
	t.Parallel()
	em, c := start(t, flowtest.Config{})
	want := flow.Spec{ID: flowtest.DatabricksSpecID, Name: "databricks", Version: "1.0", AuthSpecs: []string{flowtest.DatabricksAuthSpec}}
	got, err := c.Spec(t.Context(), account(), flowtest.DatabricksSpecID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var ce *provision.CallError
	for _, id := range []string{"none", "../connections", "a b"} {
		if _, err := c.Spec(t.Context(), account(), id); !errors.As(err, &ce) || ce.Status != http.StatusNotFound {
			t.Errorf("%q: %v, want 404", id, err)
		}
	}
	for body, says := range map[flowtest.BodyKind]string{flowtest.BodyGarbage: "not the JSON", flowtest.BodyEmpty: "not the JSON"} {
		em.SetFaults(flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectStatus, Status: 200, Body: body})
		if _, err := c.Spec(t.Context(), account(), "x"); !errors.As(err, &ce) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", body, err)
		}
	}
	em.SetFaults(flowtest.Fault{Operation: flowtest.OpSpecs, Effect: flowtest.EffectReset})
	if _, err := c.Spec(t.Context(), account(), "x"); !errors.As(err, &ce) || ce.Cause != provision.CauseNetwork {
		t.Errorf("no answer: %v", err)
	}
	before := em.Count(flowtest.OpSpecs)
	as := account()
	as.Sandbox = ""
	if _, err := c.Spec(t.Context(), as, "x"); err == nil || em.Count(flowtest.OpSpecs) != before {
		t.Errorf("without a sandbox: %v, asked %d times", err, em.Count(flowtest.OpSpecs)-before)
	}
}
