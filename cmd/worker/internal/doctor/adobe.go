package doctor

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// adobe tries a tenant's credentials.
func (x *examination) adobe(ctx context.Context, credentials provision.Credentials) {
	client, err := app.NewFlow(x.Settings, app.Parts{})
	if err != nil {
		x.fail("flow service", err.Error(), "")
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
	if x.Sandbox != "" {
		x.list(ctx, client, account)
	}
}

func (x *examination) token(ctx context.Context, client *flow.Client, account provision.Account) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Authorize(ctx, account); err != nil {
		x.fail("ims", err.Error(), "check IMS_URL, and the tenant's clientId, clientSecret and scopes in the Adobe Developer Console")
		return false
	}
	x.ok("ims", "gives a token for "+x.Tenant)
	return true
}

// list asks for connections of a name that none has: that takes all rights of a look-up, and one page.
func (x *examination) list(ctx context.Context, client *flow.Client, account provision.Account) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := client.Find(ctx, account, provision.Query{Name: "flow-worker doctor " + rand.Text()}); err != nil {
		x.fail("sandbox "+x.Sandbox, err.Error(), "check the sandbox's name, and that the credential's product profile has rights in it")
		return
	}
	x.ok("sandbox "+x.Sandbox, "its connections can be listed by "+x.Tenant)
}

// flowService asks the Flow Service anything, without credentials: that it answers is all that counts,
// and what time it thinks it is.
func (x *examination) flowService(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const remedy = "check FLOW_URL, the way out (HTTPS_PROXY), and status.adobe.com"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(x.Settings.FlowURL, "/")+"/connections?limit=1", nil)
	if err != nil {
		x.fail("flow service", err.Error(), remedy)
		return
	}
	client := &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	before := time.Now()
	res, err := client.Do(req)
	after := time.Now()
	if err != nil {
		x.fail("flow service", err.Error(), remedy)
		return
	}
	_ = res.Body.Close()
	if res.StatusCode >= http.StatusInternalServerError {
		x.fail("flow service", "it answers "+res.Status, remedy)
	} else {
		x.ok("flow service", "reachable at "+x.Settings.FlowURL)
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		x.clock("the Flow Service", date, before, after, time.Second)
	}
}
