package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if got.Version != 1 || got.Domain != "https://adb-1.azuredatabricks.net" {
			t.Errorf("version %d, domain %q", got.Version, got.Domain)
		}
	})
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		got, err := h.client.Credentials(t.Context(), "acme", false)
		h.see(got, err)
		want := provision.Credentials{
			OrgID: "ABC123@AdobeOrg", ClientID: "client", ClientSecret: provision.NewSensitive("p8-" + canary), Version: 1,
			Scopes: "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext",
		}
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
		_, err = h.client.Credentials(t.Context(), "nobody", false)
		h.see(nil, err)
		checkProblem(t, err, provision.SecretMissing, "secret/flow/tenants/nobody/adobe", "vault kv put")
	})
}

func TestReadEveryTimeWithoutCacheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		for range 3 {
			_, _ = h.resolve(false)
		}
		if n := h.server.Count("/v1/secret/data/"); n != 3 {
			t.Errorf("%d reads, want 3", n)
		}
		h.server.Delete("flow/tenants/acme/databricks/acme")
		_, err := h.resolve(false)
		checkProblem(t, err, provision.SecretMissing, "deleted")
		h.server.Put("flow/tenants/acme/databricks/acme", map[string]any{"accessToken": "new-" + canary})
		got, err := h.resolve(false)
		checkValue(t, got, err, "new-"+canary)
	})
}

func TestQuickRetries(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		outage vaulttest.Outage
		want   provision.SecretProblem // empty: works
		cause  provision.Cause
		reads  int
	}{
		"one 500":                {vaulttest.Outage{Status: 500, Times: 1}, "", provision.CauseStatus, 2},
		"two 503":                {vaulttest.Outage{Status: 503, Times: 2}, "", provision.CauseStatus, 3},
		"a lagging standby":      {vaulttest.Outage{Status: 412, Times: 1}, "", provision.CauseStatus, 2},
		"throttled":              {vaulttest.Outage{Status: 429, Times: 1, RetryAfter: time.Second}, "", provision.CauseThrottled, 2},
		"throttled for long":     {vaulttest.Outage{Status: 429, RetryAfter: time.Minute}, provision.SecretUnavailable, provision.CauseThrottled, 1},
		"down":                   {vaulttest.Outage{Status: 502}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"hangs":                  {vaulttest.Outage{Hang: true}, provision.SecretUnavailable, provision.CauseTimeout, 3},
		"hangs once":             {vaulttest.Outage{Hang: true, Times: 1}, "", provision.CauseTimeout, 2},
		"a proxy's error page":   {vaulttest.Outage{Status: 404, Body: "<html>X-Vault-Token: vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"a proxy's refusal":      {vaulttest.Outage{Status: 403, Body: "vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"not Vault's JSON":       {vaulttest.Outage{Status: 200, Body: "vaulttest-root"}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"an answer of another":   {vaulttest.Outage{Status: 204}, provision.SecretUnavailable, provision.CauseStatus, 1},
		"not JSON to the end":    {vaulttest.Outage{Status: 200, Body: `{"data":{"data":{"accessToken":"c4n4ry`}, provision.SecretUnavailable, provision.CauseStatus, 3},
		"an upgrade in progress": {vaulttest.Outage{Status: 400}, provision.SecretUnavailable, provision.CauseStatus, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { checkOutage(t, tc.outage, tc.want, tc.cause, tc.reads) })
		})
	}
}

func checkOutage(t *testing.T, o vaulttest.Outage, want provision.SecretProblem, cause provision.Cause, reads int) {
	h := start(t, serverOf(vaulttest.Config{}), Config{})
	_, _ = h.resolve(false)
	before := h.server.Count("/v1/secret/")
	o.Path = "/v1/secret/"
	h.server.SetOutage(o)
	got, err := h.resolve(false)
	if want == "" {
		checkValue(t, got, err, "dapi-"+canary)
	} else if e := checkProblem(t, err, want, "flow/tenants/acme/databricks/acme"); e.Cause != cause {
		t.Errorf("cause is %q, want %q", e.Cause, cause)
	}
	if n := h.server.Count("/v1/secret/") - before; n != reads {
		t.Errorf("%d requests, want %d", n, reads)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.retries) != reads-1 {
		t.Errorf("retries told: %v, want %d of them", h.retries, reads-1)
	}
	for _, c := range h.retries {
		if c != cause {
			t.Errorf("retry told with cause %q, want %q", c, cause)
		}
	}
}

func TestCallersContextEndsTheWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		h.server.SetOutage(vaulttest.Outage{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := h.client.Resolve(ctx, "acme", ref("databricks/acme", "accessToken"), false)
		if e := checkProblem(t, err, provision.SecretUnavailable); e.Cause != provision.CauseTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v with cause %q", err, e.Cause)
		}
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("waited for %v", waited)
		}
		cancel()
		before := h.server.Count("/")
		_, err = h.client.Resolve(ctx, "acme", ref("databricks/acme", "accessToken"), false)
		checkProblem(t, err, provision.SecretUnavailable)
		if h.server.Count("/") != before {
			t.Error("a context that has ended still led to a request")
		}
		h.server.SetOutage(vaulttest.Outage{})
	})
}

// TestHealthBesideALogin: probes ask while the token changes. Only the race detector sees what goes wrong.
func TestHealthBesideALogin(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(vaulttest.New(vaulttest.Config{}))
	t.Cleanup(server.Close)
	client, err := New(Config{Address: server.URL, Token: provision.NewSensitive("hvs.given")})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // takes Run's place
		defer close(done)
		for n := range 50 {
			client.session.conclude(fmt.Sprint("hvs.", n), lease{}, nil)
		}
	}()
	for range 50 {
		if err := client.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
	}
	<-done
}

func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, serverOf(vaulttest.Config{}), Config{})
		if err := h.client.Health(t.Context()); err != nil {
			t.Errorf("Health: %v", err)
		}
		h.server.Seal()
		checkProblem(t, h.client.Health(t.Context()), provision.SecretUnavailable, "sealed")
		h.server.Unseal()
		h.server.SetOutage(vaulttest.Outage{Hang: true})
		checkProblem(t, h.client.Health(t.Context()), provision.SecretUnavailable, "no answer in time")
		h.server.SetOutage(vaulttest.Outage{})
	})
}
