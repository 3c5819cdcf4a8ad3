package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// users of a broker, with what each may publish. None of what is tried may be stored anywhere.
const users = `
authorization { users: [
  { user: all, password: p }
  { user: worker, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*", "connections.deadletters.*", "$KV.connection-ledger.>"] } } }
  { user: half, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*"] } } }
  { user: operator, password: p, permissions { publish { allow: ["$JS.API.STREAM.>", "connections.requests.*"] } } }
  { user: acme, password: p, permissions { publish { allow: ["connections.requests.acme"] } } }
] }`

func startWithUsers(t *testing.T) *natstest.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	return natstest.Run(t, natstest.Options{ConfigFile: file})
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
		nc := natstest.Connect(t, srv.ClientURL(), natstest.As(tc.user, "p")).Conn()
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
	js := natstest.Connect(t, startWithUsers(t).ClientURL(), natstest.As("acme", "p"))
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
