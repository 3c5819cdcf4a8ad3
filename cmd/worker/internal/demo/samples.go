package demo

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// tutorial is the request of Adobe's own tutorial.
//
//go:embed request.json
var tutorial []byte

// sample is one request of the demo.
type sample struct {
	Label   string // short, at the head of its lines
	About   string // what it shows
	Tenant  string
	ID      string
	Data    []byte
	Faults  []flowtest.Fault
	Want    string // created, adopted, or the reason of its failure
	Made    int    // how many connections of its name there are at the end
	Posts   int    // how many POSTs of its name the Flow Service has seen
	AfterOf string // label of the sample that must have ended before; empty means none
}

// samples returns all samples, in the order of the table.
func samples() ([]sample, error) {
	list := []sample{
		{Label: "tutorial", About: "the request of Adobe's tutorial", Tenant: "acme", Want: "created", Made: 1, Posts: 1},
		{Label: "throttled", About: "the Flow Service answers 429 twice", Tenant: "globex", Want: "created", Made: 1, Posts: 3},
		{Label: "lost", About: "the answer is lost after the connection was made", Tenant: "acme", Want: "adopted", Made: 1, Posts: 1},
		{Label: "refused", About: "the Databricks cluster does not exist: fails on purpose", Tenant: "acme",
			Want: string(provision.ReasonFlowRejected), Posts: 1},
		{Label: "plaintext", About: "a token where a reference belongs: fails on purpose", Tenant: "acme",
			Want: string(provision.ReasonPlaintextSecret)},
		{Label: "again", About: "the tutorial's request a second time: told again, nothing is made", Tenant: "acme",
			Want: "created", Made: 1, Posts: 1, AfterOf: "tutorial"},
	}
	for i := range list {
		if err := list[i].complete(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// complete fills in the sample's data and the faults that make it what it is.
func (s *sample) complete() error {
	s.ID = "demo-" + s.Label
	if s.AfterOf != "" {
		s.ID = "demo-" + s.AfterOf
	}
	name := "" // the tutorial's own
	if s.Label != "tutorial" && s.AfterOf == "" {
		name = "Databricks " + s.Label
	}
	data, params, err := tutorialRequest(s.Tenant, name)
	if err != nil {
		return err
	}
	switch s.Label {
	case "throttled":
		s.Faults = []flowtest.Fault{{Operation: flowtest.OpCreate, Name: name, Times: 2, Effect: flowtest.EffectStatus,
			Status: http.StatusTooManyRequests, RetryAfter: time.Second}}
	case "lost":
		s.Faults = []flowtest.Fault{
			{Operation: flowtest.OpCreate, Name: name, Effect: flowtest.EffectListLag, Delay: listLag},
			{Operation: flowtest.OpCreate, Name: name, Times: 1, Effect: flowtest.EffectReset, When: flowtest.StageAfter}}
	case "refused":
		params["clusterId"] = "0000-000000-nonesuch"
		s.Faults = []flowtest.Fault{{Operation: flowtest.OpCreate, Name: name, Effect: flowtest.EffectBadCredentials,
			Message: "INVALID_PARAMETER_VALUE: Cluster 0000-000000-nonesuch does not exist"}}
	case "plaintext":
		params["accessToken"] = plaintextToken
	}
	s.Data, err = json.Marshal(data)
	return err
}

// tutorialRequest returns the tutorial's request as one of a tenant's, and its params, under another name unless
// that is empty.
func tutorialRequest(tenant, name string) (data, params map[string]any, err error) {
	if err := json.Unmarshal(tutorial, &data); err != nil {
		return nil, nil, fmt.Errorf("demo: request.json: %w", err)
	}
	auth, _ := data["auth"].(map[string]any)
	params, ok := auth["params"].(map[string]any)
	if !ok {
		return nil, nil, errors.New("demo: request.json is not the tutorial's request")
	}
	params["accessToken"] = "vault:databricks/" + tenant + "#accessToken"
	if name != "" {
		data["name"] = name
	}
	return data, params, nil
}

// plaintextToken must not show up anywhere; the sample that sends it fails.
const plaintextToken = "dapi0000-not-a-reference"

func (s *sample) name() string {
	var data struct{ Name string }
	_ = json.Unmarshal(s.Data, &data) // complete has made it
	return data.Name
}

// verdict is how a sample ended. Its JSON form is a line of "demo --json".
type verdict struct {
	Sample     string             `json:"sample"`
	About      string             `json:"about"`
	Tenant     string             `json:"tenant"`
	ID         string             `json:"id"`
	Want       string             `json:"want"`
	Got        string             `json:"got"`
	OK         bool               `json:"ok"`
	Connection string             `json:"connection,omitempty"`
	POSTs      int                `json:"posts"`       // that the Flow Service saw for its name
	Made       int                `json:"connections"` // that there are of its name
	Seconds    float64            `json:"seconds"`
	Error      *provision.Failure `json:"error,omitempty"`
	Problem    string             `json:"problem,omitempty"` // why it is not OK
}

// judge compares what a sample came to with what was expected.
func (s *sample) judge(r provision.Result, posts, made int) verdict {
	v := verdict{Sample: s.Label, About: s.About, Tenant: s.Tenant, ID: s.ID, Want: s.Want, POSTs: posts, Made: made, Error: r.Error}
	switch {
	case r.Error != nil:
		v.Got = string(r.Error.Reason)
	case r.Adopted:
		v.Got = "adopted"
	default:
		v.Got = r.Outcome
	}
	if r.Connection != nil {
		v.Connection = r.Connection.ID
	}
	switch {
	case v.Got != s.Want:
		v.Problem = "another outcome"
	case made != s.Made:
		v.Problem = fmt.Sprintf("%d connections were to be there", s.Made)
	case posts != s.Posts:
		v.Problem = fmt.Sprintf("%d POSTs were to be seen", s.Posts)
	}
	v.OK = v.Problem == ""
	return v
}

// trickle submits a request every so often until ctx ends, so that the status page has something to show.
// What can't be submitted is left out.
func (d *demo) trickle(ctx context.Context) {
	if d.Trickle <= 0 {
		return
	}
	tick := time.NewTicker(d.Trickle)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := d.drop(ctx, n); err != nil && d.Log != nil {
			d.Log.Debug("a request of the trickle was not submitted", "error", err)
		}
	}
}

// drop submits the nth request of the trickle.
func (d *demo) drop(ctx context.Context, n int) error {
	tenant := []string{"acme", "globex"}[n%2]
	name := fmt.Sprintf("Databricks trickle %d", n)
	data, _, err := tutorialRequest(tenant, name)
	if err != nil {
		return err
	}
	body, err := json.Marshal(data)
	if err != nil {
		return err
	}
	for _, f := range mishap(n, name) {
		d.world.flow.AddFault(f)
	}
	messages, err := requester.Parse(bytes.NewReader(body), requester.Options{
		Tenant: tenant, ID: fmt.Sprintf("trickle-%d", n), Source: "/worker/demo", Decoder: &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}},
	})
	if err != nil {
		return err
	}
	return d.client.SubmitOnly(ctx, messages, requester.Progress{})
}

// mishap returns what befalls the nth request of the trickle: nothing, mostly. Each befalls it once, so
// that no fault is left over.
func mishap(n int, name string) []flowtest.Fault {
	f := flowtest.Fault{Operation: flowtest.OpCreate, Name: name, Times: 1}
	switch n % 10 {
	case 2:
		f.Effect, f.Delay = flowtest.EffectLatency, time.Second
	case 4:
		f.Effect, f.Status, f.RetryAfter = flowtest.EffectStatus, http.StatusTooManyRequests, 4*time.Second
	case 6:
		f.Effect, f.When = flowtest.EffectReset, flowtest.StageAfter
	case 8:
		f.Effect, f.Message = flowtest.EffectBadCredentials, "PERMISSION_DENIED: the token has expired"
	default:
		return nil
	}
	return []flowtest.Fault{f}
}
