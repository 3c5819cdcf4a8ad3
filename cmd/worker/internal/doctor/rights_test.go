package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// users of a broker, with what each may publish. None of what is tried may be stored anywhere.
const users = `
jetstream { store_dir: %q }
authorization { users: [
  { user: all, password: p }
  { user: worker, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*", "connections.deadletters.*", "$KV.connection-ledger.>"] } } }
  { user: half, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*"] } } }
  { user: operator, password: p, permissions { publish { allow: ["$JS.API.STREAM.>", "connections.requests.*"] } } }
  { user: acme, password: p, permissions { publish { allow: ["connections.requests.acme"] } } }
] }`

func startWithUsers(t *testing.T) *server.Server {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "server.conf")
	if err := os.WriteFile(file, []byte(strings.Replace(users, "%q", `"`+dir+`"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts.Host, opts.Port, opts.NoSigs, opts.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("nats-server did not get ready")
	}
	return srv
}

func TestRights(t *testing.T) {
	t.Parallel()
	srv := startWithUsers(t)
	for _, tc := range []struct {
		user, tenant string
		status       Status
		text         string
	}{
		{"all", "", OK, "take requests, publish results, publish dead letters, write the ledger"},
		{"worker", "", OK, "take requests, publish results, publish dead letters, write the ledger"},
		{"half", "", Fail, "take requests, but not publish dead letters, write the ledger"},
		{"operator", "", OK, "may submit and retry"},
		{"acme", "acme", OK, "may submit and retry"},
		{"acme", "globex", Warn, "neither"},
	} {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(tc.user, "p"), quiet)
		if err != nil {
			t.Fatal(err)
		}
		got := found(func(x *examination) { x.Tenant = tc.tenant; x.rights(nc) })
		if len(got) != 1 || got[0].Status != tc.status || !strings.Contains(got[0].What, tc.text) {
			t.Errorf("%s for %q: %+v, want %s with %q", tc.user, tc.tenant, got, tc.status, tc.text)
		}
		nc.Close()
		if got := found(func(x *examination) { x.rights(nc) }); len(got) != 1 || got[0].Status != Fail {
			t.Errorf("on a closed connection: %+v", got)
		}
	}
}

func TestObjectsThatMayNotBeLookedAt(t *testing.T) {
	t.Parallel()
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	nc, err := nats.Connect(startWithUsers(t).ClientURL(), nats.UserInfo("acme", "p"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), time.Second) // the refused question has no answer
	defer cancel()
	got := found(func(x *examination) { x.Settings = load(t); x.objects(ctx, js) })
	if len(got) != 1 || got[0].Status != Fail || !strings.Contains(got[0].What, "may not look at them") {
		t.Errorf("got %+v", got)
	}
}

// found returns what a check reports.
func found(check func(*examination)) (all []Finding) {
	check(&examination{Config: Config{Report: func(f Finding) { all = append(all, f) }}})
	return all
}
