package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
)

// scene is what a trick is played on: a server with all objects, a request of globex that waits, and a
// ledger with a record.
type scene struct {
	*broker
	ctx   context.Context
	admin jetstream.JetStream
}

func newScene(t *testing.T, edits ...func(string) string) *scene {
	t.Helper()
	b := newEditedBroker(t, append(edits, withGlobex, withAdmin)...)
	s := &scene{broker: b, ctx: testContext(t)}
	_, s.admin = b.connect("admin")
	b.createObjects(s.ctx, s.admin)
	_, globex := b.connect("globex")
	_, err := globex.Publish(s.ctx, "connections.requests.globex", []byte(`{}`))
	s.must(err)
	_, err = s.admin.Publish(s.ctx, "$KV.connection-ledger.acme.a.b", []byte("x"))
	s.must(err)
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) as(user string) jetstream.JetStream {
	s.t.Helper()
	_, js := s.connect(user)
	return js
}

// reaches reports whether an act has a message come out on a subject of the workers' account. The act
// is followed by something that is answered only after whatever it causes.
func (s *scene) reaches(subject string, act func()) bool {
	s.t.Helper()
	sub, err := s.admin.Conn().SubscribeSync(subject)
	s.must(err)
	s.must(s.admin.Conn().Flush())
	act()
	for range 3 { // JetStream answers from goroutines of its own
		_, err = s.admin.AccountInfo(s.ctx)
		s.must(err)
	}
	_, err = sub.NextMsg(settle)
	return err == nil
}

// settle is how long a message that should not come is waited for.
const settle = 500 * time.Millisecond

// waits returns how many requests of a tenant are in the queue.
func (s *scene) waits(tenant string) uint64 {
	s.t.Helper()
	info, err := mustStream(s.ctx, s.t, s.admin, consumer.StreamRequests).Info(s.ctx, jetstream.WithSubjectFilter("connections.requests."+tenant))
	s.must(err)
	return info.State.Subjects["connections.requests."+tenant]
}

// call sends a request to the JetStream API and reports whether it was done.
func (s *scene) call(js jetstream.JetStream, subject, body string) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*settle)
	defer cancel()
	msg, err := js.Conn().RequestWithContext(ctx, subject, []byte(body))
	return err == nil && !strings.Contains(string(msg.Data), `"error"`)
}

// send publishes with a reply subject and headers.
func (s *scene) send(js jetstream.JetStream, subject, reply, body string, headers ...string) {
	s.t.Helper()
	msg := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(body), Header: nats.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	s.must(errors.Join(js.Conn().PublishMsg(msg), js.Conn().Flush()))
}

// Calls that the broker is to be made to send itself.
const (
	deleteResults = "$JS.API.STREAM.DELETE.CONNECTION_RESULTS"
	purgeResults  = "$JS.API.STREAM.PURGE.CONNECTION_RESULTS"
)

// victim is what tricks are after.
const victim = "connections.requests.globex"

// trick is something that is not done by a plain publication or subscription.
type trick struct {
	who, what string
	works     func(*scene) bool
}

// replied tries to have the stream's confirmation come out on a subject.
func replied(user, subject string) func(*scene) bool {
	return func(s *scene) bool {
		return s.reaches(subject, func() { s.send(s.as(user), "connections.requests.acme", subject, `{}`) })
	}
}

// headed tries headers on a request of acme's. The trick works if globex's queue changes, or anything
// comes out on its subject.
func headed(user string, headers ...string) func(*scene) bool {
	return func(s *scene) bool {
		reached := s.reaches(victim, func() { s.send(s.as(user), "connections.requests.acme", "", `{}`, headers...) })
		return reached || s.waits("globex") != 1
	}
}

// overheard has a user listen while somebody else does something.
func overheard(user, subject string, act func(*scene)) func(*scene) bool {
	return func(s *scene) bool {
		nc := s.as(user).Conn()
		sub, err := nc.SubscribeSync(subject)
		s.must(errors.Join(err, nc.Flush()))
		act(s)
		_, err = sub.NextMsg(settle)
		return err == nil
	}
}

// lenient has the server take calls with fields that it doesn't know. It stands after server.conf's own
// block, and so replaces that.
func lenient(accounts string) string {
	return accounts + "\njetstream { store_dir: \"/data\", sync_interval: always, strict: false }\n"
}

// withoutObjects takes from the worker what the comment in accounts.conf says it can do without.
func withoutObjects(accounts string) string {
	for _, right := range []string{
		"$JS.API.STREAM.CREATE.CONNECTION_REQUESTS", "$JS.API.STREAM.CREATE.CONNECTION_RESULTS", "$JS.API.STREAM.CREATE.CONNECTION_DEADLETTERS",
		"$JS.API.STREAM.CREATE.KV_connection-ledger", "$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker",
		"$JS.API.CONSUMER.RESET.CONNECTION_REQUESTS.flow-worker",
	} {
		accounts = without(accounts, "worker", right)
	}
	return accounts
}

// The table says of every trick what came of it.
func TestNATSTricks(t *testing.T) {
	t.Parallel()
	worked := make([]bool, len(natsTricks))
	t.Run("played", func(t *testing.T) { // returns when all are done
		for i, trick := range natsTricks {
			t.Run(trick.who+" "+trick.what, func(t *testing.T) {
				t.Parallel()
				worked[i] = trick.works(newScene(t))
			})
		}
	})
	var page strings.Builder
	page.WriteString("| who | tries | |\n|---|---|---|\n")
	works := 0
	for i, trick := range natsTricks {
		outcome := refused
		if worked[i] {
			outcome = allowed
			works++
		}
		fmt.Fprintf(&page, "| %s | %s | %s |\n", trick.who, trick.what, outcome)
	}
	t.Logf("%d tricks, %d of them work", len(natsTricks), works)
	checkPage(t, "nats tricks", page.String())
}

// The same tricks work for one who may do everything, or where the server allows it: so they are played
// well, and their success is seen.
func TestNATSTricksWorkForAnAdministrator(t *testing.T) {
	t.Parallel()
	for name, works := range map[string]func(*scene) bool{
		"reply": replied("admin", victim), "reply to an inbox": replied("admin", "_INBOX.abc.1"),
		"trace":    headed("admin", "Nats-Trace-Dest", victim),
		"overhear": overheard("admin", "_INBOX.>", asked("operator")),
		"spy":      spied("admin", "worker"),
		"limit":    limited("admin", consumer.StreamResults),
		"purge": func(s *scene) bool {
			lax := newScene(s.t, withDeletions, lenient)
			return lax.loses(func() { lax.send(lax.as("operator"), "connections.requests.acme", purgeResults, `{}`) })
		},
		"pull": func(s *scene) bool {
			loose := newScene(s.t, withDeletions)
			return loose.loses(func() { loose.pulls(loose.as("worker"), consumer.StreamRequests, consumer.ConsumerName) })
		},
		"take":  pulledForNobody("admin"),
		"reset": resetByPush("admin"),
		"acknowledge": func(s *scene) bool {
			return s.acknowledges(func(subject string) { s.send(s.as("worker"), subject, "", "+ACK") })
		},
		"roll up": func(s *scene) bool { // the ledger that older versions made
			cfg := mustStream(s.ctx, s.t, s.admin, ledgerStream).CachedInfo().Config
			cfg.AllowRollup = true
			_, err := s.admin.UpdateStream(s.ctx, cfg)
			s.must(err)
			return rolledUp("worker", "$KV.connection-ledger.acme.a.c")(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !works(newScene(t)) {
				t.Error("the trick does not work")
			}
		})
	}
}

// tap stands between clients and a server and notes what the clients publish and subscribe to, and what
// the server refuses. Its methods are safe for concurrent use.
type tap struct {
	at, server string

	mu      sync.Mutex
	used    map[probe]int // guarded by mu
	refused []string      // guarded by mu
}

// newTap listens until the test ends, for the server at an address. It speaks no TLS.
func newTap(t *testing.T, server string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{at: l.Addr().String(), server: strings.TrimPrefix(server, "nats://"), used: map[probe]int{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return p
}

func (p *tap) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client); _ = server.Close() })
	p.copy(client, server)
	_ = client.Close()
	both.Wait()
}

// copy passes on one direction, line by line and payload by payload, until it ends.
func (p *tap) copy(to io.Writer, from io.Reader) {
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
	for {
		line, err := in.ReadString('\n')
		if err == nil {
			_, err = out.WriteString(line)
		}
		if err == nil {
			_, err = io.CopyN(out, in, p.note(strings.Fields(line)))
		}
		if err == nil && in.Buffered() == 0 {
			err = out.Flush()
		}
		if err != nil {
			return
		}
	}
}

// note keeps what a protocol line says, and returns how many bytes of payload follow it.
func (p *tap) note(fields []string) int64 {
	if len(fields) < 2 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch strings.ToUpper(fields[0]) {
	case "PUB", "HPUB":
		p.used[probe{"pub", fields[1]}]++
	case "SUB":
		p.used[probe{"sub", fields[1]}]++
		return 0
	case "-ERR":
		p.refused = append(p.refused, strings.Join(fields[1:], " "))
		return 0
	case "MSG", "HMSG":
	default:
		return 0
	}
	size, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		return 0
	}
	return size + int64(len("\r\n"))
}

func (p *tap) url(user string) string { return "nats://" + user + ":pw-" + user + "@" + p.at }

// uses returns what was published and subscribed to, sorted.
func (p *tap) uses() []probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.used), probe.compare)
}

// refusals returns what the server refused, in its words.
func (p *tap) refusals() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}
