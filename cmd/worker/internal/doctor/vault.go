package doctor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault"
)

// upstream makes all checks of Vault and of Adobe.
func (x *examination) upstream(ctx context.Context) {
	x.flowService(ctx)
	x.vault(ctx)
	if !x.imsSeen && ctx.Err() == nil {
		x.ims(ctx)
	}
}

// notWorkersRemedy is for who has not all of a worker's settings, such as an operator.
const notWorkersRemedy = "run this where a worker runs, with its settings (kubectl exec deploy/flow-worker -- /usr/local/bin/worker doctor), or set what is missing"

// vault makes all checks of Vault, and tries at Adobe what it holds.
func (x *examination) vault(ctx context.Context) {
	if x.NoVault != "" {
		x.fail("vault", "not looked at: "+x.NoVault, notWorkersRemedy)
		return
	}
	registry := prometheus.NewRegistry()
	client, err := app.NewVault(x.Settings, app.Parts{Registerer: registry})
	if err != nil {
		x.fail("vault", err.Error(), "correct the VAULT_ settings")
		return
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Run(running) }() // it returns nil
	defer func() { stop(); <-ended }()
	if !x.vaultHealth(ctx, client) || !x.vaultLogin(ctx, client, registry) {
		return
	}
	if x.Tenant == "" {
		x.allTenants(ctx, client)
		return
	}
	credentials, err := x.credentials(ctx, client, x.Tenant)
	if err != nil {
		x.tenantFailed(x.Tenant, err)
		return
	}
	x.vaultRights(ctx, client)
	x.ok("tenant "+x.Tenant, fmt.Sprintf("its adobe secret is well-formed (%s)", kindOf(credentials)))
	x.adobe(ctx, credentials)
}

func kindOf(c provision.Credentials) string {
	if !c.AccessToken.IsZero() {
		return "a ready-made token"
	}
	return "OAuth server-to-server"
}

func (x *examination) vaultHealth(ctx context.Context, client *vault.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Health(ctx); err != nil {
		x.failed("vault", vaultServer, err, "check VAULT_ADDR, what stands before Vault, and that Vault runs unsealed")
		return false
	}
	x.ok("vault", "reachable at "+x.Settings.VaultServer()+", unsealed")
	return true
}

// shortToken is how long a token should last at least; the alert on it fires there, too.
const shortToken = 5 * time.Minute

func (x *examination) vaultLogin(ctx context.Context, client *vault.Client, metrics prometheus.Gatherer) bool {
	if err := awaitLogin(ctx, client, metrics); err != nil {
		x.failed("vault login", vaultServer, err, "check VAULT_AUTH="+x.Settings.VaultAuth+" and what goes with it")
		return false
	}
	ttl := metric(metrics, "flow_worker_vault_token_ttl_seconds", "")
	switch {
	case x.Settings.VaultAuth == settings.AuthNone:
		x.ok("vault login", "none: an agent adds the token; reads show whether it does")
	case math.IsNaN(ttl):
		x.ok("vault login", "by "+x.Settings.VaultAuth+"; nobody says how long the token lasts, reads show whether it works")
	case math.IsInf(ttl, 1):
		x.ok("vault login", "by "+x.Settings.VaultAuth+"; the token never ends")
	case ttl < shortToken.Seconds():
		x.warn("vault login", fmt.Sprintf("the token has %v left", seconds(ttl)), "give the worker tokens that last 30 minutes at least, and may be renewed")
	default:
		x.ok("vault login", fmt.Sprintf("by %s; the token has %v left", x.Settings.VaultAuth, seconds(ttl)))
	}
	return true
}

func seconds(s float64) time.Duration { return time.Duration(s) * time.Second }

// loginPoll is how often the client is asked whether it has tried to log in.
const loginPoll = 20 * time.Millisecond

// awaitLogin waits for the first attempt to log in, and returns why it failed.
func awaitLogin(ctx context.Context, client *vault.Client, metrics prometheus.Gatherer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(loginPoll)
	defer tick.Stop()
	tried := false // as of the last tick, so that its outcome is in by now
	for {
		err := client.Ready()
		if err == nil || tried {
			return err
		}
		tried = metric(metrics, "flow_worker_vault_requests_total", "login") > 0
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (x *examination) credentials(ctx context.Context, client *vault.Client, tenant string) (provision.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Credentials(ctx, tenant, true)
}

// allTenants reads the Adobe credentials of every tenant that the ledger knows.
func (x *examination) allTenants(ctx context.Context, client *vault.Client) {
	var good []string
	tokens := 0 // of the good ones, who need no token service
	for _, tenant := range x.tenants {
		c, err := x.credentials(ctx, client, tenant)
		if err == nil {
			good = append(good, tenant)
			if !c.AccessToken.IsZero() {
				tokens++
			}
			continue
		}
		x.tenantFailed(tenant, err)
		if se := (*provision.SecretError)(nil); errors.As(err, &se) && se.Problem != provision.SecretMissing {
			return // it is not about this tenant
		}
	}
	if len(x.tenants) == 0 {
		x.vaultReads(ctx, client)
	}
	x.imsSeen = len(good) > 0 && tokens == len(good)
	const most = 10
	switch {
	case len(x.tenants) == 0 && !x.sound["ledger"]:
		x.warn("tenants", "not looked at: the ledger, which names them, could not be read", "mend what is said of NATS above, or name one by --tenant")
	case len(x.tenants) == 0:
		x.ok("tenants", "none has sent a request yet; --tenant looks at one")
	case len(good) > most:
		x.ok("tenants", fmt.Sprintf("the adobe secrets of %s and %d more are well-formed", strings.Join(good[:most], ", "), len(good)-most))
	case len(good) > 0:
		x.ok("tenants", "well-formed adobe secrets: "+strings.Join(good, ", "))
	}
}

// vaultReads looks whether this login may read in the engine, where no tenant is known whose secrets would show it:
// a mount that is not there and a token that an agent doesn't add are seen by no login.
func (x *examination) vaultReads(ctx context.Context, client *vault.Client) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const nobody = "flow-worker-doctor"
	_, err := client.Credentials(ctx, nobody, true)
	var se *provision.SecretError
	switch {
	case err == nil, errors.As(err, &se) && se.Problem == provision.SecretMissing:
		x.ok("vault rights", fmt.Sprintf("this login may read what is below %s/%s/", x.Settings.VaultKVMount, x.Settings.VaultTenantPrefix))
	case se != nil && se.Problem == provision.SecretDenied:
		x.fail("vault rights", "a tenant's secrets could not be read: "+err.Error(), x.policyRemedy("<tenant>")+"; if the policy names each tenant, give one by --tenant")
	default:
		x.failed("vault rights", vaultServer, err, "check VAULT_KV_MOUNT="+x.Settings.VaultKVMount+" and that Vault runs unsealed")
	}
}

// tenantFailed reports that a tenant's Adobe secret could not be had. Where it is missing or malformed the
// error says what to write.
func (x *examination) tenantFailed(tenant string, err error) {
	remedy := ""
	if se := (*provision.SecretError)(nil); errors.As(err, &se) && se.Problem == provision.SecretDenied {
		remedy = x.policyRemedy(tenant)
	}
	x.failed("tenant "+tenant, vaultServer, err, remedy)
}

// policyRemedy names the right that a worker needs in Vault.
func (x *examination) policyRemedy(tenant string) string {
	s := x.Settings
	return fmt.Sprintf("let the policy of this login read %[1]s/data/%[2]s/%[3]s/* (KV version 1: %[1]s/%[2]s/%[3]s/*), as deploy/vault/policy.hcl does; or correct VAULT_KV_MOUNT=%[1]s and VAULT_TENANT_PREFIX=%[2]s",
		s.VaultKVMount, s.VaultTenantPrefix, tenant)
}

// vaultRights looks whether this login may read what requests of the tenant refer to, by a path that is
// most likely not there: where it may, Vault says so.
func (x *examination) vaultRights(ctx context.Context, client *vault.Client) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := client.Resolve(ctx, x.Tenant, provision.SecretRef{Path: "flow-worker-doctor", Field: "none"}, true)
	var se *provision.SecretError
	switch {
	case err == nil, errors.As(err, &se) && se.Problem == provision.SecretMissing:
		x.ok("vault rights", fmt.Sprintf("this login may read what is below %s/%s/%s/", x.Settings.VaultKVMount, x.Settings.VaultTenantPrefix, x.Tenant))
	case se != nil && se.Problem == provision.SecretDenied:
		x.fail("vault rights", "this login may read the tenant's adobe secret, but not its others: "+err.Error(), x.policyRemedy(x.Tenant))
	default:
		x.failed("vault rights", vaultServer, err, "check that Vault runs unsealed")
	}
}

// metric adds up the values of a metric under a label value, or all of them for "".
func metric(from prometheus.Gatherer, name, label string) (sum float64) {
	families, err := from.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			wanted := label == ""
			for _, l := range m.GetLabel() {
				wanted = wanted || l.GetValue() == label
			}
			if wanted {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
