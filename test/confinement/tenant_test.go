package confinement

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/consumer"
	wire "github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// message is a message of acme's that names its neighbour somewhere.
type message struct {
	name    string
	headers map[string][]string
	body    string
	want    string
}

// messages are all the places where a message could name a tenant.
func messages() []message {
	var all []message
	for _, name := range []string{"Tenant", "X-Tenant", "Flow-Worker-Tenant", "Nats-Subject", "Nats-Stream", "Nats-Last-Sequence",
		"Subject", "subject", "Reply-To", "Host", "Authorization", "X-Vault-Namespace", "X-Vault-Token", "x-gw-ims-org-id", "x-sandbox-name", "Flow-Worker-Request-Key",
		"Flow-Worker-Reason", "traceparent", "tracestate", "Content-Location", "__proto__"} {
		for _, value := range []string{"globex", "connections.requests.globex", "globex.nats.x", "../globex"} {
			all = append(all, message{"header " + name + ": " + value, head(name, value), bare(nil), created})
		}
	}
	for _, value := range []string{"globex", "1, tenant=globex", "../globex", "-1", "1/globex"} {
		all = append(all, message{"retry header " + value, head("Flow-Worker-Retry", value), bare(nil), malformed})
	}
	for _, name := range []string{"globex", "globex.nats.x", "../globex/x", "connections.requests.globex", "/flow-worker/globex", "globex%2Fx", "."} {
		retry := head("Flow-Worker-Retry", "1", "ce-id", name, "ce-source", "retry of "+name, "ce-tenant", "globex", "ce-subject", "globex", "Flow-Worker-Request-Key", "globex."+name+".x")
		plain := head("Flow-Worker-Retry", "1", "ce-id", name, "ce-source", "plain retry of "+name, "Flow-Worker-Request-Key", "globex."+name+".x")
		all = append(all, message{"retry of " + name + " with a tenant", retry, bare(nil), malformed},
			message{"retry of " + name, plain, bare(nil), created},
			message{"binary event named " + name, binary(name), bare(nil), created},
			message{"structured event named " + name, nil, structured(map[string]any{"id": name, "source": "event of " + name}, bare(nil)), created})
	}
	for _, attr := range []string{"tenant", "tenantid", "subject", "dataschema", "partitionkey", "namespace", "account", "authority", "authid", "orgid", "vaultpath", "natssubject", "proto"} {
		h := binary("b-" + attr)
		h["ce-"+attr] = []string{"globex"}
		all = append(all, message{"attribute " + attr + ", binary", h, bare(nil), created},
			message{"attribute " + attr + ", structured", nil, structured(map[string]any{attr: "globex"}, bare(nil)), created})
	}
	all = append(append(all, fieldMessages()...), oddMessages()...)
	for i := range all { // each is a request of its own
		all[i].body = strings.Replace(all[i].body, `"id":"`+ownID, `"id":"`+strconv.Itoa(i), 1)
	}
	return all
}

// ownID is the id of a structured event that isn't about ids.
const ownID = "own id"

// fieldMessages name the neighbour in the data.
func fieldMessages() (all []message) {
	for _, field := range []string{"tenant", "tenantId", "Tenant", "subject", "orgId", "imsOrgId", "namespace", "vaultNamespace", "vaultPath", "credentials", "source", "__proto__", "auth.tenant",
		"auth.params.tenant", "auth.params.orgId", "auth.params.adobe", "auth.params.vaultPath", "connectionSpec.tenant"} {
		all = append(all, message{"field " + field, nil, bare(map[string]any{field: "globex"}), malformed})
	}
	for _, field := range []string{"name", "description", "sandbox", "auth.params.clusterId", "auth.params.database", "auth.params.catalog"} {
		all = append(all, message{"value of " + field, nil, bare(map[string]any{field: "globex"}), created})
	}
	for _, ref := range []string{"vault:../globex/databricks/globex#accessToken", "vault:/secret/data/flow/tenants/globex/databricks/globex#accessToken", "vault:../globex/adobe#accessToken"} {
		all = append(all, message{"reference " + ref, nil, bare(map[string]any{"auth.params.accessToken": ref}), forbidden},
			message{"reference in the name " + ref, nil, bare(map[string]any{"name": ref}), malformed})
	}
	return all
}

// oddMessages are those that readers could take for different things.
func oddMessages() []message {
	twoTenants := strings.Replace(structured(nil, bare(nil)), `"id":`, `"tenant":"globex","Tenant":"globex","tenant":"acme","id":`, 1)
	encoded := base64.StdEncoding.EncodeToString([]byte(bare(map[string]any{"auth.params.accessToken": "vault:../globex/databricks/globex#accessToken"})))
	event := map[string]any{"data": json.RawMessage(structured(map[string]any{"tenant": "globex", "subject": "connections.requests.globex"}, bare(nil)))}
	return []message{
		{"attribute twice", nil, twoTenants, malformed},
		{"data in base64", nil, structured(map[string]any{"data": nil, "data_base64": encoded}, "null"), forbidden},
		{"event in an event", nil, structured(event, bare(nil)), malformed},
		{"structured event, headers of another", binary("h-1"), structured(map[string]any{"id": "s-1", "tenant": "acme"}, bare(nil)), created},
		{"headers in two cases", map[string][]string{"ce-Tenant": {"globex"}, "CE-TENANT": {"globex"}, "ce-specversion": {"1.0"}, "ce-type": {wire.TypeCreate}, "ce-id": {"cases"}, "ce-source": {"s"}}, bare(nil), created},
		{"id in two cases", map[string][]string{"ce-Id": {"one"}, "CE-ID": {"two"}, "ce-specversion": {"1.0"}, "ce-type": {wire.TypeCreate}, "ce-source": {"s"}}, bare(nil), malformed},
		{"dead letter's headers", head("Flow-Worker-Reason", "flow_denied", "Flow-Worker-Request-Key", "globex.nats.r-1", "Flow-Worker-Failed-At", "2026-11-22T03:00:00Z", "Flow-Worker-Redacted", "true"), bare(nil), created},
		{"not JSON", nil, "tenant=globex", malformed},
		{"a list", nil, "[" + bare(nil) + `,{"tenant":"globex"}]`, malformed},
		{"nothing", nil, "", malformed},
	}
}

func head(pairs ...string) map[string][]string {
	out := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = append(out[pairs[i]], pairs[i+1])
	}
	return out
}

func binary(id string) map[string][]string {
	return head("ce-specversion", "1.0", "ce-type", wire.TypeCreate, "ce-id", id, "ce-source", id)
}

// bare returns acme's good data with the fields at dotted paths changed.
func bare(changes map[string]any) string {
	var doc map[string]any
	must(json.Unmarshal(request(goodRef, goodDomain), &doc))
	for path, value := range changes {
		at, parts := doc, strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			at, _ = at[p].(map[string]any)
		}
		at[parts[len(parts)-1]] = value
	}
	return marshal(doc)
}

// structured returns an event around data with attributes changed.
func structured(changes map[string]any, data string) string {
	doc := map[string]any{"specversion": "1.0", "id": ownID, "source": "/portal", "type": wire.TypeCreate, "data": json.RawMessage(data)}
	maps.Copy(doc, changes)
	maps.DeleteFunc(doc, func(_ string, v any) bool { return v == nil })
	return marshal(doc)
}

func marshal(v any) string {
	out, err := json.Marshal(v)
	must(err)
	return string(out)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// station is a NATS server with the worker on it.
type station struct {
	*world
	js jetstream.JetStream
}

func newStation(ctx context.Context, t *testing.T) *station {
	t.Helper()
	server := natstest.Run(t, natstest.Options{})
	s := &station{world: newWorld(t, engine{}), js: natstest.Connect(t, server.ClientURL())}
	records, err := ledger.Open(ctx, s.js, ledger.Config{Manage: true})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	cfg := s.hubConfig(records)
	cfg.Stopping = running
	hub, err := provision.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := consumer.New(consumer.Config{JS: s.js, Handle: hub.Handle, Codec: s.decoder, Concurrency: 4,
		Metrics: consumer.NewMetrics(prometheus.NewRegistry()), Objects: consumer.ObjectsConfig{Manage: true}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.EnsureObjects(ctx, s.js, consumer.ObjectsConfig{Manage: true}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	t.Cleanup(func() {
		stop()
		c.Abort()
		<-done
	})
	return s
}

// results returns a function that waits for the next result.
func (s *station) stored(ctx context.Context, t *testing.T, stream string) (next func() jetstream.Msg) {
	t.Helper()
	ordered, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := ordered.Messages()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Stop)
	return func() jetstream.Msg {
		m, err := all.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
		return m
	}
}

// TestTenantComesFromTheSubjectAlone publishes on acme's subject what names globex anywhere else.
func TestTenantComesFromTheSubjectAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := newStation(ctx, t)
	next := s.stored(ctx, t, consumer.StreamResults)
	failed := 0
	for i, m := range messages() {
		header := nats.Header(maps.Clone(m.headers))
		if header == nil {
			header = nats.Header{}
		}
		header.Set("Nats-Msg-Id", "globex.nats."+strconv.Itoa(i))
		if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: "connections.requests.acme", Header: header, Data: []byte(m.body)}); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		result := next()
		got, err := wire.DecodeResult(result.Data())
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		outcome := got.Outcome
		if got.Error != nil {
			outcome = string(got.Error.Reason)
			failed++
		}
		if outcome != m.want {
			t.Errorf("%s: %s, want %s: %+v", m.name, outcome, m.want, got.Error)
		}
		if !strings.HasPrefix(result.Subject(), "connections.results.acme.") || got.Tenant != "acme" {
			t.Errorf("%s: the result is on %s, of tenant %s", m.name, result.Subject(), got.Tenant)
		}
		if _, err := s.judged(s.judge); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	s.checkPosted(t)
	s.checkDeadLetters(ctx, t, failed)
	s.checkLedger(ctx, t)
	t.Logf("%d messages, %d failed", len(messages()), failed)
}

// checkDeadLetters expects n dead letters, all of acme's.
func (s *station) checkDeadLetters(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	next := s.stored(ctx, t, consumer.StreamDeadLetters)
	for range n {
		m := next()
		if m.Subject() != "connections.deadletters.acme" || !strings.HasPrefix(m.Headers().Get(wire.HeaderRequestKey), "acme.") {
			t.Errorf("a dead letter on %s of %s", m.Subject(), m.Headers().Get(wire.HeaderRequestKey))
		}
	}
}

// checkLedger expects records of acme's only.
func (s *station) checkLedger(ctx context.Context, t *testing.T) {
	t.Helper()
	bucket, err := s.js.KeyValue(ctx, ledger.DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := bucket.Keys(ctx)
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d records, %v", len(keys), err)
	}
	for _, key := range keys {
		if k, err := provision.ParseKey(key); err == nil && k.Tenant != "acme" {
			t.Errorf("a record of tenant %s: %s", k.Tenant, key)
		}
	}
}
