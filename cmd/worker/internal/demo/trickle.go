package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

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
	body, err := trickled(tenant, name)
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

// trickled returns the tutorial's request of a tenant, with another name.
func trickled(tenant, name string) ([]byte, error) {
	var data map[string]any
	text := bytes.ReplaceAll(tutorial, []byte("vault:databricks/acme"), []byte("vault:databricks/"+tenant))
	if err := json.Unmarshal(text, &data); err != nil {
		return nil, fmt.Errorf("demo: request.json: %w", err)
	}
	data["name"] = name
	return json.Marshal(data)
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
