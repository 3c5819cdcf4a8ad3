package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// healthTimeout is shorter than the 5 s or more that container engines wait.
const healthTimeout = 3 * time.Second

// healthcheckCommand is for images, which have no other HTTP client.
func (c *cli) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "healthcheck", Short: "Ask the worker at WORKER_HTTP_ADDR whether it lives", Args: cobra.NoArgs, Hidden: true}
	load := c.settingsOf(cmd, settings.HTTP)
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		set, err := load()
		if err != nil {
			return err
		}
		return checkHealth(ctx, "http://"+reachable(set.Settings.HTTPAddr)+"/healthz")
	})
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
