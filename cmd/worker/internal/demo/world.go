// Package demo runs the worker and everything it needs in one process, and shows it at work.
//
// NATS is the real server, embedded; Vault and the Flow Service are stand-ins that speak the real
// protocols over HTTP on loopback addresses. The worker is wired exactly as the run command wires it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/loopback"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// Times of the demo: short, so that every sample ends within seconds.
const (
	flowTimeout = 3 * time.Second
	settle      = 3 * time.Second
	listLag     = time.Second // how long the lost connection is missing from lists
)

// world is all that the worker needs, and the directory that it all lives in.
type world struct {
	dir     string
	nats    *natstest.Server
	vault   *vaulttest.Server
	vaultAt *loopback.Server
	flow    *flowtest.Emulator
	flowAt  *loopback.Server
}

// newWorld starts everything. Close it also after an error.
func newWorld(ctx context.Context) (*world, error) {
	w := &world{vault: vaulttest.New(vaulttest.Config{}), flow: flowtest.New(flowtest.Config{})}
	var err error
	if w.dir, err = os.MkdirTemp("", "worker-demo-"); err != nil {
		return w, err
	}
	if w.nats, err = natstest.Start(ctx, natstest.Options{StoreDir: filepath.Join(w.dir, "jetstream")}); err != nil {
		return w, fmt.Errorf("NATS: %w", err)
	}
	if w.vaultAt, err = loopback.Start(ctx, "127.0.0.1:0", w.vault); err != nil {
		return w, fmt.Errorf("the Vault server: %w", err)
	}
	if w.flowAt, err = loopback.Start(ctx, "127.0.0.1:0", w.flow); err != nil {
		return w, fmt.Errorf("the Flow Service emulator: %w", err)
	}
	w.addTenants()
	return w, os.WriteFile(w.requestFile(), tutorial, 0o600)
}

// addTenants writes the secrets of two tenants, and makes their Adobe clients known to IMS.
func (w *world) addTenants() {
	for _, t := range []string{"acme", "globex"} {
		w.vault.Put("flow/tenants/"+t+"/adobe", map[string]any{
			"orgId": t + "@AdobeOrg", "clientId": t + "-client", "clientSecret": "demo-client-secret-of-" + t,
			"scopes": "openid,AdobeID,read_organizations",
		})
		w.vault.Put("flow/tenants/"+t+"/databricks/"+t, map[string]any{"accessToken": "dapi-demo-token-of-" + t})
	}
}

func (w *world) requestFile() string { return filepath.Join(w.dir, "request.json") }

// settings are those of a worker in this world. Nothing comes from the environment.
func (w *world) settings() (settings.Settings, error) {
	set, err := settings.Load(settings.Source{Environ: []string{
		"NATS_URL=" + w.nats.ClientURL(),
		"VAULT_ADDR=" + w.vaultAt.URL,
		"VAULT_TOKEN=" + w.vault.NewToken(vaulttest.Role{}),
		"FLOW_URL=" + w.flowAt.URL + "/data/foundation/flowservice",
		"IMS_URL=" + w.flowAt.URL,
		"WORKER_HTTP_ADDR=127.0.0.1:0",
		"WORKER_STATUS_ADDR=127.0.0.1:0",
		"FLOW_TIMEOUT=" + flowTimeout.String(),
		"WORKER_SETTLE=" + settle.String(),
		"WORKER_RETRY_INITIAL=300ms",
		"WORKER_RETRY_DELAY_MAX=2s",
		"WORKER_REDELIVERY_DELAY_MAX=2s",
		"WORKER_SHUTDOWN_TIMEOUT=5s",
	}}, settings.All...)
	return set.Settings, err
}

// Close stops everything and removes the directory. It may be called at any stage.
func (w *world) Close() error {
	var errs []error
	for _, s := range []*loopback.Server{w.vaultAt, w.flowAt} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if w.nats != nil {
		w.nats.Shutdown()
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
