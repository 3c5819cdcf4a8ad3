package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// startAsDeployed runs a server with the shipped permissions, and an administrator; all passwords are "p".
func startAsDeployed(t *testing.T) *natstest.Server {
	t.Helper()
	accounts, err := os.ReadFile("../../../../deploy/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\$NATS_\w+_PASSWORD`).ReplaceAllString(string(accounts), "p")
	text = strings.Replace(text, "users: [\n", "users: [\n{ user: admin, password: p }\n", 1)
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return natstest.Run(t, natstest.Options{ConfigFile: file})
}

// as connects a user of startAsDeployed.
func as(t *testing.T, srv *natstest.Server, user string) jetstream.JetStream {
	t.Helper()
	return natstest.Connect(t, srv.ClientURL(), natstest.As(user, "p"), consumer.OwnInbox(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// lookAt returns what the doctor says of the consumers.
func lookAt(t *testing.T, js jetstream.JetStream) []Finding {
	t.Helper()
	return found(func(x *examination) { x.consumers(testContext(t), js) })
}

// A consumer takes requests that nobody gets. Nothing but the doctor tells. An operator can't make one, nor remove it.
func TestForeignConsumersAsDeployed(t *testing.T) {
	t.Parallel()
	srv := startAsDeployed(t)
	ctx := testContext(t)
	admin, operator := as(t, srv, "admin"), as(t, srv, "operator")
	if _, err := app.EnsureObjects(ctx, admin, load(t)); err != nil {
		t.Fatal(err)
	}
	if got := lookAt(t, operator); len(got) != 1 || got[0].Status != OK || !strings.Contains(got[0].What, "1, none delivers") {
		t.Errorf("with the workers' consumer alone: %+v", got)
	}
	publish(t, admin, "connections.results.acme.failed", "connections.requests.acme")
	thief := []byte(
		`{"stream_name":"CONNECTION_RESULTS","config":{"name":"z1","deliver_policy":"last","ack_policy":"explicit","headers_only":true,"mem_storage":true,` +
			`"inactive_threshold":5000000000,"deliver_subject":"$JS.API.CONSUMER.MSG.NEXT.CONNECTION_REQUESTS.flow-worker"}}`)
	if err := errors.Join(operator.Conn().Publish("$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.z1", thief), operator.Conn().Flush()); err != nil {
		t.Fatal(err)
	}
	if got := lookAt(t, operator); len(got) != 1 || got[0].Status != OK {
		t.Errorf("after an operator tried to make one: %+v", got)
	}
	msg, err := admin.Conn().RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.z1", thief)
	if err != nil || strings.Contains(string(msg.Data), `"error"`) {
		t.Fatalf("the administrator makes no consumer: %v, %+v", err, msg)
	}
	awaitTaken(t, admin)
	got := lookAt(t, operator)
	if len(got) != 1 || got[0].Status != Fail || !strings.Contains(got[0].What, `consumer "z1" of CONNECTION_RESULTS delivers to "$JS.API.CONSUMER.MSG.NEXT.`) ||
		!strings.Contains(got[0].Remedy, "nats consumer rm CONNECTION_RESULTS 'z1' --force") || !strings.Contains(got[0].Remedy, "$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.>") {
		t.Errorf("with a consumer that takes requests: %+v", got)
	}
	if err := admin.DeleteConsumer(ctx, consumer.StreamResults, "z1"); err != nil { // what the remedy says
		t.Fatal(err)
	}
	if got := lookAt(t, operator); len(got) != 1 || got[0].Status != OK {
		t.Errorf("after it was removed: %+v", got)
	}
}

func publish(t *testing.T, js jetstream.JetStream, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		if _, err := js.Publish(testContext(t), subject, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitTaken waits until a request is in somebody's hands, though no worker runs.
func awaitTaken(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ctx := testContext(t)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
		if err == nil && from.CachedInfo().NumAckPending == 1 {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("no request was taken: %v", err)
		}
	}
}

// Who may not list consumers is told so at once, and that it is for an operator to look.
func TestForeignConsumersUnseen(t *testing.T) {
	t.Parallel()
	srv := startAsDeployed(t)
	admin, worker := as(t, srv, "admin"), as(t, srv, "worker")
	if got := lookAt(t, admin); len(got) != 1 || got[0].Status != Fail || got[0].Remedy != lookRemedy {
		t.Errorf("without streams: %+v", got)
	}
	if _, err := app.EnsureObjects(testContext(t), admin, load(t)); err != nil {
		t.Fatal(err)
	}
	if got := lookAt(t, worker); len(got) != 1 || !strings.Contains(got[0].What, "may not list them; run doctor with an operator's credentials") {
		t.Errorf("as a worker: %+v", got)
	}
	worker.Conn().Close()
	if got := lookAt(t, worker); len(got) != 1 || got[0].Status != Fail {
		t.Errorf("on a closed connection: %+v", got)
	}
}

func TestForeignConsumersOfEachStream(t *testing.T) {
	t.Parallel()
	js := startBroker(t)
	ctx := testContext(t)
	if _, err := app.EnsureObjects(ctx, js, load(t)); err != nil {
		t.Fatal(err)
	}
	for _, stream := range watched[1:] { // what reads, as flow-worker's own commands do
		_, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Name: "reader", AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute})
		if err == nil {
			_, err = js.CreatePushConsumer(ctx, stream, jetstream.ConsumerConfig{Name: "pushed", DeliverSubject: "_INBOX.operator.x"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := lookAt(t, js); len(got) != 1 || got[0].Status != OK || !strings.Contains(got[0].What, "7, none") {
		t.Errorf("with readers: %+v", got)
	}
	for i, to := range []string{resetRight(js).subject, "my.results", "connections.requests.acme"} {
		if _, err := js.CreatePushConsumer(ctx, watched[1+i], jetstream.ConsumerConfig{Name: "bad'x", DeliverSubject: to}); err != nil {
			t.Fatal(err)
		}
	}
	if err := thief(t, js); err != nil {
		t.Fatal(err)
	}
	got := lookAt(t, js)
	for _, want := range []string{"takes requests that the workers don't get", "has the workers' requests delivered again", `"my.results", which is no inbox`, `"connections.requests.acme", which is no inbox`} {
		if !has(got, "nats consumers", Fail, want) {
			t.Errorf("no %q in %+v", want, got)
		}
	}
	if len(got) != 4 || !strings.Contains(got[1].Remedy, `nats consumer rm CONNECTION_RESULTS 'bad'\''x' --force`) {
		t.Errorf("got %+v", got)
	}
}

// thief makes a consumer that takes requests of one tenant, which the server lets be only while the workers'
// takes others.
func thief(t *testing.T, js jetstream.JetStream) error {
	t.Helper()
	ctx := testContext(t)
	from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		return err
	}
	narrow := from.CachedInfo().Config
	narrow.FilterSubject = "connections.requests.acme"
	_, narrowed := js.UpdateConsumer(ctx, consumer.StreamRequests, narrow)
	_, made := js.CreateConsumer(ctx, consumer.StreamRequests, jetstream.ConsumerConfig{
		Durable: "thief", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "connections.requests.globex",
	})
	return errors.Join(narrowed, made)
}

func TestManyForeignConsumersTakeFewLines(t *testing.T) {
	t.Parallel()
	var all []*jetstream.ConsumerInfo
	for i := range foreignMax + 3 {
		all = append(all, &jetstream.ConsumerInfo{Name: fmt.Sprint("c", i), Config: jetstream.ConsumerConfig{DeliverSubject: "elsewhere"}})
	}
	got := found(func(x *examination) {
		if n := x.tellForeign(consumer.StreamResults, all); n != len(all) {
			t.Errorf("%d are foreign, want %d", n, len(all))
		}
	})
	if last := got[len(got)-1]; len(got) != foreignMax+1 || !strings.Contains(last.What, "3 more") || !strings.Contains(last.Remedy, "nats consumer ls CONNECTION_RESULTS") {
		t.Errorf("got %+v", got)
	}
}

// A stream that is full can be read, so everything else about it is well.
func TestRoom(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	ctx := testContext(t)
	if _, err := app.EnsureObjects(ctx, js, load(t)); err != nil {
		t.Fatal(err)
	}
	look := func() []Finding { return found(func(x *examination) { x.room(ctx, js) }) }
	if got := look(); len(got) > 0 {
		t.Errorf("with room everywhere: %+v", got)
	}
	stream, err := js.Stream(ctx, consumer.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Discard, cfg.MaxBytes = jetstream.DiscardNew, 1000
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if got := look(); len(got) != 1 || got[0].Status != Fail || !strings.Contains(got[0].What, "CONNECTION_RESULTS is full: max_bytes is 1000") {
		t.Errorf("with a stream that is full: %+v", got)
	}
}
