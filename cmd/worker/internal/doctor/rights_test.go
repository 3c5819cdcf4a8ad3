package doctor

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// users of a broker, with what each may publish. None of what is tried may be stored anywhere.
const users = `
authorization { users: [
  { user: all, password: p }
  { user: worker, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*", "connections.deadletters.*", "$KV.connection-ledger.>"] } } }
  { user: poor, password: p, permissions { publish {
      allow: ["$JS.API.>", "connections.results.*.*", "connections.deadletters.*", "$KV.connection-ledger.>"], deny: ["$JS.API.CONSUMER.RESET.>"] } } }
  { user: half, password: p, permissions { publish { allow: ["$JS.API.>", "connections.results.*.*"] } } }
  { user: operator, password: p, permissions { publish { allow: ["$JS.API.STREAM.>", "connections.requests.*"] } } }
  { user: reader, password: p, permissions { publish { allow: ["$JS.API.INFO", "$JS.API.STREAM.INFO.KV_connection-ledger"] } } }
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
		user := natstest.Connect(t, srv.ClientURL(), natstest.As(tc.user, "p"))
		got := found(func(x *examination) { x.Tenant = tc.tenant; x.rights(user) })
		if len(got) != 1 || got[0].Status != tc.status || !strings.Contains(got[0].What, tc.text) {
			t.Errorf("%s for %q: %+v, want %s with %q", tc.user, tc.tenant, got, tc.status, tc.text)
		}
		user.Conn().Close()
		if got := found(func(x *examination) { x.rights(user) }); len(got) != 1 || got[0].Status != Fail {
			t.Errorf("on a closed connection: %+v", got)
		}
	}
}

// delivered returns how many deliveries the queue's consumer counts; a reset one begins anew.
func delivered(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	from, err := js.Consumer(testContext(t), consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		t.Fatal(err)
	}
	return from.CachedInfo().Delivered.Consumer
}

// queueWithADelivery makes the objects, and has a request delivered.
func queueWithADelivery(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := consumer.EnsureObjects(testContext(t), js, consumer.ObjectsConfig{Manage: true})
	if err == nil {
		_, err = js.Publish(testContext(t), "connections.requests.acme", []byte(`{}`))
	}
	if err != nil {
		t.Fatal(err)
	}
	from, err := js.Consumer(testContext(t), consumer.StreamRequests, consumer.ConsumerName)
	if err == nil {
		_, err = from.Next()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a worker mends the queue with is tried without a message's being delivered again.
func TestRepair(t *testing.T) {
	t.Parallel()
	srv := startWithUsers(t)
	js := natstest.Connect(t, srv.ClientURL(), natstest.As("all", "p"))
	queueWithADelivery(t, js)
	before := delivered(t, js)
	for _, tc := range []struct {
		user   string
		manage bool
		status Status
		text   string
	}{
		{"all", true, OK, "delivered again"},
		{"worker", true, OK, "delivered again"},
		{"poor", true, Warn, "may not reset the consumer"},
		{"poor", false, "", ""},
		{"operator", true, "", ""},
	} {
		user := natstest.Connect(t, srv.ClientURL(), natstest.As(tc.user, "p"))
		var got Finding
		for _, f := range found(func(x *examination) { x.Settings.ManageStreams = tc.manage; x.rights(user) }) {
			if f.Check == "nats repair" {
				got = f
			}
		}
		if got.Status != tc.status || !strings.Contains(got.What, tc.text) || (got.Remedy != "") != (tc.status == Warn) {
			t.Errorf("%s, who may manage the objects: %v: %+v, want %s with %q", tc.user, tc.manage, got, tc.status, tc.text)
		}
	}
	if after := delivered(t, js); before == 0 || after != before {
		t.Errorf("%d deliveries are noted, there were %d: the consumer was reset", after, before)
	}
	closed := natstest.Connect(t, srv.ClientURL(), natstest.As("all", "p"))
	closed.Conn().Close()
	if got := found(func(x *examination) { x.repair(closed) }); len(got) != 1 || got[0].Status == OK {
		t.Errorf("on a closed connection: %+v", got)
	}
}

// olderServer is one that is too old to reset a consumer, as far as a client can tell.
func olderServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, `INFO {"server_id":"old","version":"2.13.9","max_payload":1048576,"headers":true}`+"\r\n")
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if lines.Text() == "PING" {
				fmt.Fprint(c, "PONG\r\n")
			}
		}
	}()
	return "nats://" + l.Addr().String()
}

func TestRepairNeedsANewerServer(t *testing.T) {
	t.Parallel()
	old := natstest.Connect(t, olderServer(t))
	got := found(func(x *examination) { x.repair(old) })
	if len(got) != 1 || got[0].Status != Warn || !strings.Contains(got[0].What, "2.13.9") || !strings.Contains(got[0].What, "needs 2.14.0 or newer") {
		t.Errorf("got %+v", got)
	}
}

func TestObjectsThatMayNotBeLookedAt(t *testing.T) {
	t.Parallel()
	srv := startWithUsers(t)
	if _, err := app.EnsureObjects(testContext(t), natstest.Connect(t, srv.ClientURL(), natstest.As("all", "p")), load(t)); err != nil {
		t.Fatal(err)
	}
	js := natstest.Connect(t, srv.ClientURL(), natstest.As("acme", "p"))
	got := found(func(x *examination) { x.Settings = load(t); x.objects(testContext(t), js) })
	if len(got) != 1 || got[0].Status != Fail || !strings.Contains(got[0].What, "may not look at them: it may not publish on $JS.API.STREAM.INFO.KV_connection-ledger") {
		t.Errorf("got %+v; want it told without a question that has no answer", got)
	}
	ctx, cancel := context.WithTimeout(testContext(t), time.Second) // this one has none
	defer cancel()
	ledgerOnly := natstest.Connect(t, srv.ClientURL(), natstest.As("reader", "p"))
	got = found(func(x *examination) { x.Settings = load(t); x.objects(ctx, ledgerOnly) })
	if !has(got, "nats objects", Fail, "may not look at them") {
		t.Errorf("who may look at the ledger alone: got %+v", got)
	}
}

// found returns what a check reports.
func found(check func(*examination)) (all []Finding) {
	check(&examination{Config: Config{Report: func(f Finding) { all = append(all, f) }}})
	return all
}
