// Command vaultdev is the real Vault, small enough to build for a test: a core with in-memory storage
// and the engines and logins that the worker uses. It prints one line of JSON, {"address", "rootToken",
// "unsealKey"}, and serves on a loopback port until it is signalled or its standard input ends.
//
// It is a module of its own, so that Vault's three hundred modules stay out of the worker's go.sum. It
// is for tests only: Vault's licence (BUSL-1.1) and the memory that it keeps everything in both forbid
// more.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// What this Vault has; everything else was left out.
var (
	engines = map[string]logical.Factory{"kv": kv.Factory}
	logins  = map[string]logical.Factory{"approle": approle.Factory, "jwt": jwt.Factory, "kubernetes": kubernetes.Factory}
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vaultdev:", err)
		os.Exit(1)
	}
}

// run serves until ctx or stdin ends; the latter so that a test that dies leaves nothing behind.
func run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	core, err := newCore()
	if err != nil {
		return fmt.Errorf("new core: %w", err)
	}
	defer func() { _ = core.Shutdown() }() // the process ends anyhow
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{
			Type: "tcp", MaxRequestDuration: vault.DefaultMaxRequestDuration, MaxRequestSize: vaulthttp.DefaultMaxRequestSize,
		}}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	defer server.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { cancel(server.Serve(listener)) }()
	go func() {
		_, err := io.Copy(io.Discard, stdin)
		cancel(err)
	}()
	if err := announce(ctx, core, "http://"+listener.Addr().String(), stdout); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func newCore() (*vault.Core, error) {
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	storage, err := inmem.NewInmem(nil, log)
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		Logger:             log,
		DisableMlock:       true,
		LogicalBackends:    engines,
		CredentialBackends: logins,
		BuiltinRegistry:    registry{},
	})
}

// announce initializes and unseals the core and prints how to reach it.
func announce(ctx context.Context, core *vault.Core, address string, stdout io.Writer) error {
	shares := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	keys, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: shares})
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	key := keys.SecretShares[0]
	unsealed, err := core.Unseal(append([]byte(nil), key...)) // it wipes what it is given
	if err != nil || !unsealed {
		return fmt.Errorf("unseal: %v, %w", unsealed, err)
	}
	return json.NewEncoder(stdout).Encode(map[string]string{
		"address": address, "rootToken": keys.RootToken, "unsealKey": hex.EncodeToString(key),
	})
}

// registry is Vault's catalog of what is built in, asked whenever something is to be mounted. Vault's
// own would bring every cloud's client with it.
type registry struct{}

func factories(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return engines
	case consts.PluginTypeCredential:
		return logins
	}
	return nil
}

// Contains implements plugincatalog.BuiltinRegistry.
func (registry) Contains(name string, kind consts.PluginType) bool {
	return factories(kind)[name] != nil
}

// Get implements plugincatalog.BuiltinRegistry.
func (registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, ok := factories(kind)[name]
	return func() (interface{}, error) { return factory, nil }, ok
}

// Keys implements plugincatalog.BuiltinRegistry.
func (registry) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range factories(kind) {
		names = append(names, name)
	}
	return names
}

// DeprecationStatus implements plugincatalog.BuiltinRegistry.
func (registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, registry{}.Contains(name, kind)
}

// IsBuiltinEntPlugin implements plugincatalog.BuiltinRegistry.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
