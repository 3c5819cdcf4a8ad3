package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// demo is one running "worker demo".
type demo struct {
	t        *testing.T
	process  *exec.Cmd
	page     string // the status page's address, without a slash at its end
	nats     string
	emulator string
	request  map[string]any // the body of the tutorial's request
}

var addresses = regexp.MustCompile(`^  (status page|connections|NATS) +(\S+)$|--wait (\S+request\.json)$`)

// startDemo runs a demo until the test's end, and returns when its samples have ended.
func startDemo(t *testing.T) *demo {
	t.Helper()
	if browser == nil {
		t.Skip("there is no Chromium; install Debian's package chromium, or name one in FLOW_WORKER_BROWSER")
	}
	d := &demo{t: t, process: exec.Command(worker, "demo", "--trickle=0")}
	d.process.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := d.process.StdoutPipe()
	check(t, err)
	check(t, d.process.Start())
	t.Cleanup(d.stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	found := map[string]string{}
	for lines := scan(bufio.NewScanner(out)); len(found) < 4; {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the demo ended early, after it told of %v", found)
			}
			if m := addresses.FindStringSubmatch(line); m != nil {
				found[m[1]] = m[2] + m[3]
			}
		case <-ctx.Done():
			t.Fatalf("the demo takes too long; it told of %v", found)
		}
	}
	d.page, d.nats = strings.TrimSuffix(found["status page"], "/"), found["NATS"]
	d.emulator = strings.TrimSuffix(found["connections"], "/connections")
	body, err := os.ReadFile(found[""])
	check(t, err)
	check(t, json.Unmarshal(body, &d.request))
	return d
}

// stop ends the demo as Ctrl-C does. A second call does nothing.
func (d *demo) stop() {
	if d.process.ProcessState != nil {
		return
	}
	_ = d.process.Process.Signal(syscall.SIGINT)
	if err := d.process.Wait(); err != nil {
		d.t.Errorf("the demo ended with %v", err)
	}
}

// run runs another command of the worker, with the demo's NATS.
func (d *demo) run(args ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, worker, append([]string{args[0], "--nats-url", d.nats}, args[1:]...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("worker %q: %v\n%s", args, err, out)
	}
}

// submit sends a request of a tenant.
func (d *demo) submit(tenant, id, name string) {
	d.t.Helper()
	body := map[string]any{}
	for k, v := range d.request {
		body[k] = v
	}
	body["name"] = name
	text, err := json.Marshal(body)
	check(d.t, err)
	text = bytes.ReplaceAll(text, []byte("vault:databricks/acme"), []byte("vault:databricks/"+tenant))
	file := filepath.Join(d.t.TempDir(), "request.json")
	check(d.t, os.WriteFile(file, text, 0o600))
	d.run("submit", "--tenant", tenant, "--id", id, "--source", "/test", file)
}

// fault has the Flow Service misbehave.
func (d *demo) fault(fault map[string]any) {
	d.t.Helper()
	body, err := json.Marshal(fault)
	check(d.t, err)
	resp, err := http.Post(d.emulator+"/faults", "application/json", bytes.NewReader(body))
	check(d.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		d.t.Fatalf("fault %s: %s", body, resp.Status)
	}
}

// story returns the address of a request's story, as a link to it has.
func story(tenant, source, id string) string {
	escape := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "=%02X", c)
			}
		}
		return b.String()
	}
	return "/requests/" + tenant + "." + escape(source) + "." + escape(id)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
