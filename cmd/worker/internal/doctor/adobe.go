package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// adobe tries a tenant's credentials.
func (x *examination) adobe(ctx context.Context, credentials provision.Credentials) {
	x.imsSeen = true
	client, err := app.NewFlow(x.Settings, app.Parts{})
	if err != nil {
		x.fail("flow service", err.Error(), "check FLOW_URL and IMS_URL")
		return
	}
	defer client.Close()
	account := provision.Account{Tenant: x.Tenant, Sandbox: x.Sandbox, Credentials: credentials}
	if x.Sandbox == "" {
		account.Sandbox = "none" // it goes nowhere, but must not be empty
	}
	if credentials.AccessToken.IsZero() && !x.token(ctx, client, account) {
		return
	}
	if x.Sandbox != "" && x.flowUp {
		x.list(ctx, client, account)
		x.specs(ctx, client, account)
	}
}

func (x *examination) token(ctx context.Context, client *flow.Client, account provision.Account) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Authorize(ctx, account); err != nil {
		x.failed("ims", imsServer, err, "check IMS_URL, and the tenant's clientId, clientSecret and scopes in the Adobe Developer Console")
		return false
	}
	x.ok("ims", "gives a token for "+x.Tenant)
	return true
}

// list asks for connections of a name that none has: that takes all rights of a look-up, and one page.
func (x *examination) list(ctx context.Context, client *flow.Client, account provision.Account) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := client.Find(ctx, account, provision.Query{Names: []string{"flow-worker doctor " + rand.Text()}}); err != nil {
		x.failed("sandbox "+x.Sandbox, flowServer, err, "check the sandbox's name, and that the credential's product profile has rights in it")
		return
	}
	x.ok("sandbox "+x.Sandbox, "its connections can be listed by "+x.Tenant)
}

// The Databricks connector as Adobe's tutorial names it, and how it authenticates. What requests name is
// theirs; what the ledger saw of it is looked for, too.
const (
	databricksSpec = "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b"
	databricksAuth = "Access Token Authentication"
)

// maxSpecs bounds how many connection specs are asked for.
const maxSpecs = 5

// specs looks whether the connection specs that requests name are still there.
func (x *examination) specs(ctx context.Context, client *flow.Client, account provision.Account) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ids := []string{databricksSpec}
	for _, id := range x.specIDs {
		if id != databricksSpec && len(ids) < maxSpecs {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		x.spec(ctx, client, account, id)
	}
}

func (x *examination) spec(ctx context.Context, client *flow.Client, account provision.Account, id string) {
	spec, err := client.Spec(ctx, account, id)
	var ce *provision.CallError
	switch {
	case errors.As(err, &ce) && ce.Status == http.StatusNotFound && ce.Verdict == provision.VerdictRejected:
		x.fail("connection spec", err.Error(), "Adobe has no connection spec "+id+" (any more): send requests with the connectionSpec.id that its documentation names for Databricks now")
	case err != nil:
		x.failed("connection spec", flowServer, err, "the credential's product profile needs the right to view sources in this sandbox")
	case !slices.Contains(spec.AuthSpecs, databricksAuth):
		x.fail("connection spec", fmt.Sprintf("%s (%s) knows no %q, only %q", id, spec.Name, databricksAuth, spec.AuthSpecs),
			"send requests with an auth.specName that it knows; if none takes a token, Adobe has changed the connector")
	default:
		x.ok("connection spec", fmt.Sprintf("%s is there: %s, version %s", id, spec.Name, spec.Version))
	}
}

// flowService asks the Flow Service anything: that it answers is all that counts, and what time it thinks
// it is.
func (x *examination) flowService(ctx context.Context) {
	before := time.Now()
	res, err := anonymously(ctx, x.Settings.FlowURL+"/connections?limit=1")
	after := time.Now()
	x.flowUp = x.answers("flow service", x.Settings.FlowURL, flowServer, res, err)
	if err != nil {
		return
	}
	if date, err := http.ParseTime(res.header.Get("Date")); err == nil {
		x.clock("the Flow Service", date, before, after, time.Second)
	}
}

// ims asks the token service anything, where no tenant's credentials were tried there.
func (x *examination) ims(ctx context.Context) {
	res, err := anonymously(ctx, x.Settings.IMSURL+"/ims/token/v3")
	x.answers("ims", x.Settings.IMSURL, imsServer, res, err)
}

// answers reports whether a server answered: with whatever but an error of its own.
func (x *examination) answers(check, at string, server Peer, res answer, err error) bool {
	remedy := "check " + server.URL + ", the way out (HTTPS_PROXY), and status.adobe.com"
	switch {
	case err != nil:
		x.failed(check, server, err, remedy)
		return false
	case res.code >= http.StatusInternalServerError:
		x.fail(check, "it answers "+res.status, remedy)
		return false
	}
	x.ok(check, "reachable at "+at)
	return true
}

// answer is what counts of a server's answer.
type answer struct {
	code   int
	status string // code in words
	header http.Header
}

// anonymously asks for a page without credentials. A redirect is an answer.
func anonymously(ctx context.Context, url string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	client := &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	_ = res.Body.Close()
	return answer{res.StatusCode, res.Status, res.Header}, nil
}
