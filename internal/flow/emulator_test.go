package flow_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/google/go-cmp/cmp"
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
