package app

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestNothingLeaks sends a worker whose every secret is a canary down every path on which a request can
// fail, with services that say every secret back in every spelling, and then looks for the canaries, in
// every spelling, in everything that the worker writes, publishes and serves. Then it plants a secret in
// each of these places, to see that it would have been found.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	w := newLeakWorld(t)
	w.start("VAULT_AUTH=approle", "VAULT_ROLE_ID=role", "VAULT_SECRET_ID_FILE="+w.file("secret-id", w.canaries["AppRole secret-id"]+"\n"))
	w.everyFailure()
	w.whileOneHangs()
	w.secondThoughts()
	w.checkPaths()
	w.checkMisplaced()
	hunt := w.hunt(w.sinks())
	w.stop()
	w.restartOtherwise()
	hunt = w.huntOn(hunt, w.sinks())
	for _, hit := range hunt.Hits() {
		t.Errorf("%s leaks %q as %s: …%s…", hit.Sink, hit.Canary, hit.Spelling, hit.Around)
	}
	t.Logf("searched:\n%s", hunt.Report())
	w.plantEverywhere()
}

// send publishes a request of a tenant.
func (w *leakWorld) send(tenant, id, body string, h ...string) {
	w.t.Helper()
	m, err := event.EncodeRequest(event.Draft{ID: id, Source: "/leaks", Body: []byte(body)})
	check(w.t, err)
	w.publish(tenant, string(m.Body), append(h, "Content-Type", event.ContentType)...)
}

func (w *leakWorld) publish(tenant, body string, h ...string) {
	w.t.Helper()
	m := &nats.Msg{Subject: "connections.requests." + tenant, Header: nats.Header{}, Data: []byte(body)}
	for pair := range slices.Chunk(h, 2) {
		m.Header[pair[0]] = append(m.Header[pair[0]], pair[1])
	}
	_, err := w.js.PublishMsg(w.ctx, m)
	check(w.t, err)
}

// leakData returns the data of a request, with more members at its end.
func leakData(name, token string, more ...string) string {
	quoted, _ := json.Marshal(name)
	sandbox := "prod"
	if name == "unlistable" || strings.HasPrefix(name, "panic") {
		sandbox, _, _ = strings.Cut(name, " ")
	}
	return fmt.Sprintf(`{"sandbox":%q,"name":%s,"auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1.7.azuredatabricks.net",`+
		`"clusterId":"c","database":"d","accessToken":%q}},"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}%s}`,
		sandbox, quoted, token, strings.Join(more, ""))
}

const goodRef = "vault:dbx#accessToken"

// everyFailure sends a request down each path, and waits for the end of all.
func (w *leakWorld) everyFailure() {
	w.t.Helper()
	w.send("acme", "asleep", leakData("parrot|400|asleep|plain|2", goodRef)) // first, for it has a verdict that no other one has
	w.refusedByUs()
	w.sendMisplaced()
	w.refusedByOthers()
	w.leftBehind()
	w.drained()
}

// refusedByUs sends what is wrong in itself, with a secret where there should be none.
func (w *leakWorld) refusedByUs() {
	c := w.canaries
	w.send("acme", "plaintext", leakData("plaintext", c["plaintext token"]))
	w.send("acme", "unknown", leakData("unknown", goodRef, `,"password":`, quote(c["unknown field"]), `,"nested":{"a":[`, quote(c["unknown field"]), `]}`))
	w.publish("acme", leakData("bare", c["plaintext token"]), "Nats-Msg-Id", "bare", "X-Secret", c["unknown header"], "tracestate", "a="+c["trace state"])
	w.publish("acme", `{"broken": "`+c["broken JSON"], "Nats-Msg-Id", "broken", "ce-secret", c["unknown attribute"])
	w.publish("acme", c["broken JSON"], "Content-Type", event.ContentType, "Nats-Msg-Id", "no-json", "Flow-Worker-Retry", c["unknown header"])
	w.publish("acme", strings.Repeat(c["broken JSON"], 4000), "Nats-Msg-Id", "too-long")
	w.publish("acme", leakData("binary", goodRef), "ce-specversion", "1.0", "ce-id", "binary", "ce-source", "/leaks", "ce-type", event.TypeCreate,
		"ce-token", c["unknown attribute"], "ce-expirytime", c["unknown attribute"], "Content-Type", "application/json; secret="+c["unknown header"])
	w.publish("acme", `{"decoder, panic!":`+quote(c["decoder's panic"])+`}`, "Nats-Msg-Id", "decoder", "ce-secret", c["unknown attribute"])
	w.send("acme", "userinfo", strings.Replace(leakData("userinfo", goodRef), "https://adb", "https://user:"+quoteInner(c["user info"])+"@adb", 1))
	w.send("acme", "name", leakData("name vault:"+goodRef+"\x00", "vault:dbx#"+c["plaintext token"]))
	w.publish("Acme", `{"x":`+quote(c["unknown field"])+`}`, "X-Secret", c["unknown header"])
	w.send("acme", "forbidden", leakData("forbidden", "vault:adobe#clientSecret"))
	w.send("acme", "missing", leakData("missing", "vault:nothing/here#accessToken"))
	w.send("nobody", "no-tenant", leakData("no-tenant", goodRef))
	w.send("odd", "odd-tenant", leakData("odd-tenant", goodRef))
	w.send("denied", "denied", leakData("denied", goodRef))
	w.publish("acme", `{"specversion":"1.0","id":"expired","source":"/leaks","type":"`+event.TypeCreate+`","expirytime":"2020-01-01T00:00:00Z","data":`+leakData("expired", goodRef)+`}`)
}

// refusedByOthers has the services refuse and fail, in every shape and spelling.
func (w *leakWorld) refusedByOthers() {
	n := 0
	say := func(tenant string, status int, shape, spelling string, times int) {
		n++
		w.send(tenant, fmt.Sprint("said-", n), leakData(fmt.Sprintf("parrot|%d|%s|%s|%d", status, shape, spelling, times), goodRef))
	}
	for spelling := range canary.Spellings {
		say("acme", 400, "flow", spelling, 99)
		say("static", 403, "gateway", spelling, 99)
	}
	for shape := range shapes {
		for _, status := range []int{201, 302, 400, 401, 403, 500} {
			say([]string{"acme", "static"}[n%2], status, shape, []string{"plain", "base64", "percent"}[n%3], 1)
		}
	}
	for _, shape := range []string{"gzip", "abort", "malformed header"} {
		say("static", 400, shape, "plain", 1)
	}
	say("acme", 429, "flow", "plain", 9999)
	say("static", 503, "html", "plain", 1)
	w.send("acme", "unlistable", leakData("unlistable", goodRef))
	w.send("refused", "refused", leakData("ims-refuses", goodRef))
	w.send("imsdown", "imsdown", leakData("ims-is-down", goodRef))
	w.send("sealed", "sealed", leakData("vault-is-sealed", goodRef))
	w.send("static", "too late", leakData("too late", goodRef))
	w.send("acme", "panic", leakData("panic", goodRef))
	w.send("acme", "good", leakData("good", goodRef))
}

// leftBehind leaves records in the ledger as workers do that die, and sends their requests.
func (w *leakWorld) leftBehind() {
	for id, change := range map[string]func(*provision.Record){
		"killer": func(r *provision.Record) { r.Deaths, r.AloneDeaths = 9, 9 },
		"taken over": func(r *provision.Record) {
			r.State, r.PostedAt, r.FirstPostAt = provision.StatePosting, r.StartedAt, r.StartedAt
			r.Lease, r.Posts = time.Second, 1
		},
	} {
		m, err := event.EncodeRequest(event.Draft{ID: id, Source: "/leaks", Body: []byte(leakData(id, goodRef))})
		check(w.t, err)
		long := time.Now().Add(-time.Minute)
		d := (&event.Decoder{}).Decode("acme", m.Headers, m.Body, event.Meta{})
		rec := provision.Record{Key: d.Request.Key, State: provision.StateClaimed, Fingerprint: d.Request.Fingerprint, Held: true, HeldUntil: long,
			Owner: "dead", RequestedAt: long, StartedAt: long, Deadline: time.Now().Add(time.Hour), Sandbox: "prod", Name: id}
		change(&rec)
		_, err = w.worker.ledger.Load().Store(w.ctx, rec.Key, rec, 0)
		check(w.t, err)
		w.publish("acme", string(m.Body), "Content-Type", event.ContentType)
	}
}

// whileOneHangs looks at everything while a POST is under way.
func (w *leakWorld) whileOneHangs() {
	w.t.Helper()
	w.flow.mu.Lock()
	hangs := w.flow.changed
	w.flow.mu.Unlock()
	w.send("acme", "hangs", leakData("parrot|500|hang|plain|1", goodRef))
	select {
	case <-hangs:
	case <-w.ctx.Done():
		w.t.Fatal("no POST hangs")
	}
	w.look("while a POST hangs")
	w.drained()
}

// secondThoughts sends again what was dealt with before: the same, other data, and retries.
func (w *leakWorld) secondThoughts() {
	w.t.Helper()
	w.send("acme", "good", leakData("good", goodRef))
	w.send("acme", "good", leakData("another", w.canaries["plaintext token"]))
	w.send("acme", "same name", leakData("good", goodRef, `,"ifExists":"reject"`))
	w.send("acme", "adopted", leakData("good", goodRef, `,"ifExists":"adopt"`))
	w.send("acme", "forbidden", leakData("forbidden", "vault:adobe#clientSecret"), "Flow-Worker-Retry", "1", "Nats-Msg-Id", "retry-1")
	w.send("acme", "missing", leakData("missing", "vault:nothing/here#accessToken"), "Flow-Worker-Retry", w.canaries["unknown header"])
	w.drained()
}

// restartOtherwise runs a worker that logs in by a JWT and an NKey, for a tenant and a failure.
func (w *leakWorld) restartOtherwise() {
	w.t.Helper()
	w.start("VAULT_AUTH=jwt", "VAULT_ROLE=role", "VAULT_JWT_FILE="+w.file("jwt", w.canaries["JWT"]),
		"NATS_URL=nats://"+w.js.Conn().ConnectedAddr(), "NATS_NKEY="+w.file("seed", w.canaries["NATS seed"]))
	w.send("static", "late", leakData("parrot|400|flow|plain|9", goodRef))
	w.send("acme", "late", leakData("parrot|403|problem|base64 from byte 1|9", goodRef))
	w.send("denied", "late", leakData("denied", goodRef))
	w.drained()
}

// drained waits until no request is left.
func (w *leakWorld) drained() {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := w.js.Stream(w.ctx, consumer.StreamRequests)
		if err == nil && s.CachedInfo().State.Msgs == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%d requests are left, %v:\n%s", s.CachedInfo().State.Msgs, err, tail(w.log.String(), 4000))
		}
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// checkPaths wants every reason among the results, and every verdict in the log.
func (w *leakWorld) checkPaths() {
	w.t.Helper()
	for missing := w.unheard(); len(missing) > 0; missing = w.unheard() { // the spy hears of it a little later
		if w.ctx.Err() != nil {
			w.t.Fatalf("nothing says %q", missing)
		}
		check(w.t, w.spy.Flush())
	}
	if n := w.emulator.Count(flowtest.OpCreate); n < 10 {
		w.t.Errorf("only %d connections were asked for", n)
	}
	for v := provision.VerdictUnknown; v <= provision.VerdictRejected; v++ {
		if !strings.Contains(w.log.String(), `"verdict":"`+v.String()+`"`) {
			w.t.Errorf("no call had the verdict %s", v)
		}
	}
}

// unheard returns what nothing has said yet.
func (w *leakWorld) unheard() (missing []string) {
	results := w.overheard("results")
	for _, r := range provision.Reasons {
		if !strings.Contains(results, `"reason":"`+string(r)+`"`) {
			missing = append(missing, string(r))
		}
	}
	for _, text := range []string{"panic while working on a request", "panic while reading a message", "its last worker vanished", "[redacted]"} {
		if !strings.Contains(w.log.String()+w.overheard("dead letters"), text) {
			missing = append(missing, text)
		}
	}
	return missing
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func quoteInner(s string) string { return strings.Trim(quote(s), `"`) }
