package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

func (c *cli) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the worker",
		Long: `Run the worker until SIGTERM or SIGINT; then it finishes what is in hand and exits 0. A second
signal ends it at once; requests it had in hand are taken up by another worker, or after a restart.`,
		Example: "  NATS_URL=nats://nats:4222 VAULT_ADDR=https://vault:8200 VAULT_AUTH=kubernetes VAULT_ROLE=flow-worker worker run\n  worker run --worker-concurrency 16 --log-level debug",
		Args:    cobra.NoArgs,
	}
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, _ []string) error {
		log := c.logger(set.Settings)
		for _, w := range set.Warnings {
			log.Warn("odd setting", "warning", w)
		}
		host, _ := os.Hostname() // without one, the instance has a random name
		v := readVersion()
		return app.Run(ctx, set.Settings, app.Deps{
			Log: log, Instance: host, Build: app.Build{Version: v.Version, Commit: v.Commit, Go: v.Go}, NATSRemedy: natsRemedy,
		})
	}, settings.All...)
	return cmd
}

// healthTimeout is shorter than the 5 s or more that container engines wait.
const healthTimeout = 3 * time.Second

// healthcheckCommand is for images, which have no other HTTP client.
func (c *cli) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "healthcheck", Short: "Ask the worker at WORKER_HTTP_ADDR whether it lives", Args: cobra.NoArgs, Hidden: true}
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, _ []string) error {
		return checkHealth(ctx, "http://"+reachable(set.Settings.HTTPAddr)+"/healthz")
	}, settings.HTTP)
	return cmd
}

func checkHealth(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := healthClient().Do(req)
	if err != nil {
		return fmt.Errorf("the worker does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// healthClient asks this machine, so it goes by no proxy and follows nobody elsewhere.
func healthClient() *http.Client {
	return &http.Client{
		Timeout: healthTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSHandshakeTimeout: healthTimeout, IdleConnTimeout: healthTimeout, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reachable turns an address to listen on into one to connect to.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.Is4() && ip.IsUnspecified():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
