package deploy

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// composeService is the part of a compose service that is checked here.
type composeService struct {
	Image       string
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	NetworkMode string `yaml:"network_mode"`
	StopGrace   string `yaml:"stop_grace_period"`
	ReadOnly    bool   `yaml:"read_only"`
	Ports       []string
	Volumes     []string
	Rest        map[string]any `yaml:",inline"`
}

func readCompose(t *testing.T) map[string]composeService {
	t.Helper()
	var file struct {
		Services map[string]composeService
		Rest     map[string]any `yaml:",inline"`
	}
	readYAML(t, "compose.yaml", &file)
	return file.Services
}

func composeWorkers(t *testing.T) map[string]composeService {
	t.Helper()
	workers := readCompose(t)
	maps.DeleteFunc(workers, func(name string, _ composeService) bool { return !strings.HasPrefix(name, "worker-") })
	if len(workers) != 2 {
		t.Fatalf("%d workers, want 2", len(workers))
	}
	return workers
}

func TestComposeServices(t *testing.T) {
	t.Parallel()
	services := readCompose(t)
	for _, name := range []string{"nats", "nats-setup", "vault", "vault-setup", "prometheus", "grafana", "emulator", "worker-1", "worker-2"} {
		s, ok := services[name]
		if !ok {
			t.Errorf("no service %s", name)
		}
		if _, tag, _ := strings.Cut(s.Image, ":"); tag == "" || tag == "latest" {
			t.Errorf("%s: image %q has no tag", name, s.Image)
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network", name, port)
			}
		}
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if _, err := os.Stat(source); strings.HasPrefix(source, ".") && err != nil {
				t.Errorf("%s mounts %s: %v", name, source, err)
			}
		}
	}
}

func TestComposeWorkers(t *testing.T) {
	t.Parallel()
	for name, s := range composeWorkers(t) {
		env := s.Environment
		checkSettings(t, name, slices.Collect(maps.Keys(env))...)
		grace, err := time.ParseDuration(s.StopGrace)
		if err != nil || grace <= shutdownTimeout(t, env) {
			t.Errorf("%s: stop_grace_period %q, error %v; want more than WORKER_SHUTDOWN_TIMEOUT", name, s.StopGrace, err)
		}
		if s.NetworkMode != "service:emulator" || !s.ReadOnly {
			t.Errorf("%s: network_mode %q, read_only %t", name, s.NetworkMode, s.ReadOnly)
		}
		for _, variable := range []string{"FLOW_URL", "IMS_URL", "VAULT_ADDR"} {
			checkHTTPOnLoopback(t, name, variable, env[variable])
		}
	}
}

// checkHTTPOnLoopback repeats the worker's own rule: credentials go over https or stay on the machine.
func checkHTTPOnLoopback(t *testing.T, name, variable, text string) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Errorf("%s: %s: %v", name, variable, err)
		return
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (ip == nil || !ip.IsLoopback()) {
		t.Errorf("%s: %s is plain http to %s", name, variable, u.Host)
	}
}

// Two workers in one network namespace need different ports, and Prometheus has to know them.
func TestComposePortsDontClash(t *testing.T) {
	t.Parallel()
	targets := string(read(t, "prometheus/prometheus.yml"))
	used := map[string]string{"8090": "emulator", "8200": "vault"} // :: port → who
	published := readCompose(t)["emulator"].Ports
	for name, s := range composeWorkers(t) {
		for _, variable := range []string{"WORKER_HTTP_ADDR", "WORKER_STATUS_ADDR"} {
			_, port, err := net.SplitHostPort(s.Environment[variable])
			if err != nil || used[port] != "" {
				t.Errorf("%s: %s=%s, error %v; port taken by %q", name, variable, s.Environment[variable], err, used[port])
			}
			used[port] = name
			if variable == "WORKER_HTTP_ADDR" && !strings.Contains(targets, `"emulator:`+port+`"`) {
				t.Errorf("prometheus.yml does not scrape %s on port %s", name, port)
			}
			if variable == "WORKER_STATUS_ADDR" && !slices.Contains(published, "127.0.0.1:"+port+":"+port) {
				t.Errorf("the status page of %s on port %s is not published", name, port)
			}
		}
	}
}

func TestComposeSetsEveryNATSPassword(t *testing.T) {
	t.Parallel()
	env := readCompose(t)["nats"].Environment
	for user, variable := range natsUsers {
		if env[variable] != "demo-"+user {
			t.Errorf("%s is %q", variable, env[variable])
		}
	}
	for name, s := range composeWorkers(t) {
		if !strings.Contains(s.Environment["NATS_URL"], "//worker:"+env["NATS_WORKER_PASSWORD"]+"@") {
			t.Errorf("%s does not connect as worker", name)
		}
	}
}

// The workers' user may not upgrade NATS objects, so that is done before they start, by who may.
func TestComposeInitializesNATS(t *testing.T) {
	t.Parallel()
	services := readCompose(t)
	setup := services["nats-setup"]
	checkSettings(t, "nats-setup", slices.Collect(maps.Keys(setup.Environment))...)
	password := services["nats"].Environment["NATS_INIT_PASSWORD"]
	if !slices.Equal(setup.Command, []string{"init"}) || !strings.Contains(setup.Environment["NATS_URL"], "//init:"+password+"@") {
		t.Errorf("nats-setup runs %q at %s", setup.Command, setup.Environment["NATS_URL"])
	}
	for name, s := range composeWorkers(t) {
		needs, _ := s.Rest["depends_on"].(map[string]any)
		setup, _ := needs["nats-setup"].(map[string]any)
		if setup["condition"] != "service_completed_successfully" {
			t.Errorf("%s starts after %v", name, needs)
		}
	}
	tag := strings.TrimPrefix(services["nats"].Image, "nats:")
	var major, minor int
	if _, err := fmt.Sscanf(tag, "%d.%d.", &major, &minor); err != nil || major != 2 || minor < 14 {
		t.Errorf("NATS %s, error %v; to mend a queue the workers need 2.14", tag, err)
	}
}

// shutdownTimeout returns the WORKER_SHUTDOWN_TIMEOUT that settings come to.
func shutdownTimeout(t *testing.T, env map[string]string) time.Duration {
	t.Helper()
	text, ok := env["WORKER_SHUTDOWN_TIMEOUT"]
	if !ok {
		return 90 * time.Second // the default, as the contract has it
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("WORKER_SHUTDOWN_TIMEOUT: %v", err)
	}
	return d
}
