package flow

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Spec is a connection spec, as far as it tells whether requests can name it. What the Flow Service leaves
// out is empty.
type Spec struct {
	ID, Name, Version string
	AuthSpecs         []string // names of its ways to authenticate
}

// specBody is a connection spec as it is sent.
type specBody struct {
	Items []struct {
		ID       text `json:"id"`
		Name     text `json:"name"`
		Version  text `json:"version"`
		AuthSpec []struct {
			Name text `json:"name"`
		} `json:"authSpec"`
	} `json:"items"`
}

// Spec returns the connection spec with this id. Its error is a *provision.CallError, with the status 404
// where there is none. It asks once, and renews a refused bearer token never.
func (c *Client) Spec(ctx context.Context, as provision.Account, id string) (Spec, error) {
	began := time.Now()
	s, err := c.spec(ctx, as, id)
	c.told(ctx, opGet, as, began, err)
	if err != nil {
		return Spec{}, err
	}
	return s, nil
}

func (c *Client) spec(ctx context.Context, as provision.Account, id string) (Spec, *provision.CallError) {
	g, cerr := c.grant(ctx, as)
	if cerr != nil {
		return Spec{}, cerr
	}
	s := scrubberOf(as.Credentials, g.token)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, c.base.JoinPath("connectionSpecs", url.PathEscape(id)).String(), nil, as, g)
	if err != nil {
		return Spec{}, unreadable("its address is unusable")
	}
	a, err := exchange(c.get, req, maxBody)
	switch {
	case err != nil:
		return Spec{}, unanswered(provision.TargetFlow, provision.VerdictUnknown, err, s)
	case a.status != http.StatusOK:
		return Spec{}, judge(a, s)
	case a.bodyErr != nil:
		return Spec{}, unanswered(provision.TargetFlow, provision.VerdictUnknown, a.bodyErr, s)
	}
	return readSpec(a, id, s)
}

// readSpec reads a connection spec. The errors of the JSON decoder are not passed on, for they may quote it.
func readSpec(a answer, id string, s scrubber) (Spec, *provision.CallError) {
	var body specBody
	if json.Unmarshal(a.body, &body) != nil {
		return Spec{}, unreadable("it is not the JSON that was expected")
	}
	for _, i := range body.Items {
		if string(i.ID) != id {
			continue
		}
		spec := Spec{ID: id, Name: s.message(string(i.Name)), Version: s.message(string(i.Version))}
		for _, auth := range i.AuthSpec {
			spec.AuthSpecs = append(spec.AuthSpecs, s.message(string(auth.Name)))
		}
		return spec, nil
	}
	return Spec{}, unreadable("the answer has another one than the one asked for")
}

// unreadable is the error of a connection spec that was answered with something else.
func unreadable(why string) *provision.CallError {
	cerr := unlistable("")
	cerr.Message = "can't read the connection spec: " + why
	return cerr
}
