package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/doctor"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// leafWorld is a world whose NATS is a leaf node with a JetStream of its own; hub is the JetStream beyond it, in the
// domain "hub".
func leafWorld(t *testing.T) (w *testWorld, hub jetstream.JetStream) {
	t.Helper()
	conf := func(format string, args ...any) natstest.Options {
		file := filepath.Join(t.TempDir(), "server.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
			t.Fatal(err)
		}
		return natstest.Options{ConfigFile: file}
	}
	hubServer := natstest.Run(t, conf("server_name: hub\njetstream { domain: hub }\nleafnodes { listen: \"127.0.0.1:-1\" }\n"))
	at, err := hubServer.LeafURL()
	if err != nil {
		t.Fatal(err)
	}
	w = newWorldWith(t, conf("server_name: leaf\njetstream { domain: leaf }\nleafnodes { remotes: [ { url: %q } ] }\n", at))
	w.awaitDomain("hub")
	return w, natstest.Connect(t, hubServer.ClientURL())
}

// awaitDomain waits until the way to a domain is up.
func (w *testWorld) awaitDomain(domain string) {
	w.t.Helper()
	js, err := jetstream.NewWithDomain(w.jetStream().Conn(), domain)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err = js.AccountInfo(ctx); err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			w.t.Fatalf("the domain %s does not answer: %v", domain, err)
		}
	}
}

// streamNames returns the streams that js has.
func streamNames(t *testing.T, js jetstream.JetStream) string {
	t.Helper()
	var names []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// With NATS_JS_DOMAIN a worker on a leaf node uses the hub's streams for all that it does, and so do the commands.
func TestWorkerOnALeafNode(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{"domain": "NATS_JS_DOMAIN=hub", "prefix": "NATS_JS_API_PREFIX=$JS.hub.API"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, hub := leafWorld(t)
			w.environ = append(w.environ, setting)
			w.start()
			r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
			if r.code != exitOK || !strings.HasPrefix(r.stdout, "r-1  created connection ") {
				t.Fatalf("submit: exit %d:\n%s%s\n%s", r.code, r.stdout, r.stderr, w.log.String())
			}
			for _, args := range [][]string{{"status", "r-1"}, {"list"}, {"pause"}, {"resume"}, {"init"}, {"list", "--stuck"}} {
				if r := w.worker("", args...); r.code != exitOK {
					t.Errorf("%q: exit %d:\n%s%s", args, r.code, r.stdout, r.stderr)
				}
			}
			failed := w.worker(request("B", "vault:none#x"), "submit", "--tenant", "acme", "--id", "r-2", "--wait", "--timeout", "1m", "-")
			if failed.code != exitFailed || !strings.Contains(failed.stdout, "secret_not_found") {
				t.Errorf("a failure: exit %d:\n%s%s", failed.code, failed.stdout, failed.stderr)
			}
			if r := w.worker("", "retry", "r-2", "--tenant", "acme", "--yes"); r.code != exitOK {
				t.Errorf("retry: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
			}
			code, all := w.examined("--tenant", "acme")
			if code != exitOK || !told(all, "jetstream", doctor.OK, `domain "hub"`) || !told(all, "nats rights", doctor.OK, "write the ledger") {
				t.Errorf("doctor: exit %d: %+v", code, all)
			}
			if got := streamNames(t, hub); !strings.Contains(got, "KV_connection-ledger") || strings.Count(got, "CONNECTION_") != 3 {
				t.Errorf("the hub has %q", got)
			}
			if got := streamNames(t, w.jetStream()); got != "" {
				t.Errorf("the leaf node has %q", got)
			}
		})
	}
}

// A domain that there is not is named, with the setting.
func TestUnknownDomain(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.environ = append(w.environ, "NATS_JS_DOMAIN=hub")
	r := w.worker("", "init")
	if r.code != exitFailed || !strings.Contains(r.stderr, `no JetStream answers for the domain "hub"`) || !strings.Contains(r.stderr, "NATS_JS_DOMAIN") {
		t.Errorf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// A context of the nats command has what is not set beside it.
func TestContext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(`
		accounts {
			A { jetstream: { max_bytes_required: true }, users: [ { user: app, password: "p:w'd" } ] }
			SYS { users: [ { user: sys, password: s } ] }
		}
		system_account: SYS`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, natstest.Options{ConfigFile: file})
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flow.json"), fmt.Appendf(nil, `{"description":"","url":%q,"user":"app","password":"p:w'd","jetstream_domain":"","tls_first":false}`, w.natsURL), 0o600); err != nil {
		t.Fatal(err)
	}
	w.environ = append(w.environ[1:], "HOME="+home, "NATS_CONTEXT=flow")
	if r := w.worker("", "init"); r.code != exitFailed || !strings.Contains(r.stderr, "set WORKER_STREAM_MAX_BYTES, such as 1GB") {
		t.Errorf("an account that wants sizes: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if code, all := w.examined(); code != exitFailed || !told(all, "nats objects", doctor.Fail, "it does not exist", `set WORKER_STREAM_MAX_BYTES, such as 1GB, and run "worker init"`) {
		t.Errorf("doctor before there are objects: exit %d: %+v", code, all)
	}
	w.environ = append(w.environ, "WORKER_STREAM_MAX_BYTES=10MB")
	w.start()
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "r-1", "--wait", "--timeout", "1m", "-")
	if r.code != exitOK {
		t.Errorf("submit: exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	code, all := w.examined()
	if code != exitOK || !told(all, "jetstream", doctor.OK, `account "A"`) || !told(all, "nats limits", doctor.OK, "KV_connection-ledger is 0 % full (max_bytes 10000000); when it is full, no record can be written") {
		t.Errorf("doctor: exit %d: %+v", code, all)
	}
	shown := w.worker("", "config").stdout
	for _, want := range []string{w.natsURL + " ", "NATS_USER ", "app ", "context\n", "********"} {
		if !strings.Contains(shown, want) || strings.Contains(shown, "p:w'd") {
			t.Errorf("config, without %q or with a secret:\n%s", want, shown)
		}
	}
	if r := worker(t, append(w.environ, "NATS_CONTEXT=other"), "", "list"); r.code != exitUsage || !strings.Contains(r.stderr, `"other" is no context in `+dir+`; there are flow`) {
		t.Errorf("an unknown context: exit %d:\n%s", r.code, r.stderr)
	}
}
