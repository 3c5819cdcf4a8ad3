package consumer_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

func serverOf(t *testing.T, conf string, args ...any) *natstest.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, conf, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return natstest.Run(t, natstest.Options{ConfigFile: file})
}

// socks starts a SOCKS5 proxy that knows one host by name, and returns its URL.
func socks(t *testing.T, host, at string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 262)
				if _, err := io.ReadFull(c, buf[:2]); err != nil { // version, number of methods
					return
				}
				_, _ = io.ReadFull(c, buf[:buf[1]])
				_, _ = c.Write([]byte{5, 0})
				if _, err := io.ReadFull(c, buf[:5]); err != nil { // version, connect, 0, name, its length
					return
				}
				n := int(buf[4])
				if _, err := io.ReadFull(c, buf[:n+2]); err != nil || string(buf[:n]) != host {
					return
				}
				to, err := net.Dial("tcp", at)
				if err != nil {
					return
				}
				defer to.Close()
				_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				go func() { _, _ = io.Copy(to, c) }()
				_, _ = io.Copy(c, to)
			}()
		}
	}()
	return "socks5://" + l.Addr().String()
}

// Every way to log in and to get there works, for the worker as for a command.
func TestWaysToConnect(t *testing.T) {
	t.Parallel()
	users := serverOf(t, `authorization { users: [ { user: u, password: p, permissions { subscribe: "_INBOX.u.>" } }, { user: w, password: p, permissions { subscribe: "mine.>" } } ] }`)
	token := serverOf(t, `authorization { token: t0ken }`)
	anonymous := serverOf(t, "accounts { A { users: [ { user: nobody, password: p } ] } }\nno_auth_user: nobody\n")
	at := strings.TrimPrefix(users.ClientURL(), "nats://")
	_, port, _ := net.SplitHostPort(at)
	for name, cfg := range map[string]consumer.ConnConfig{
		"user":         {URL: users.ClientURL(), User: "u", Password: "p"},
		"user in URL":  {URL: "nats://u:p@" + at, User: "w", Password: "wrong"},
		"token":        {URL: token.ClientURL(), Token: "t0ken"},
		"inbox prefix": {URL: users.ClientURL(), User: "w", Password: "p", InboxPrefix: "mine.inbox"},
		"several URLs": {URL: "nats://127.0.0.1:1," + users.ClientURL(), User: "u", Password: "p"},
		"no user":      {URL: anonymous.ClientURL()},
		"SOCKS":        {URL: "nats://only.the.proxy.knows:" + port, User: "u", Password: "p", SocksProxy: socks(t, "only.the.proxy.knows", at)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
			nc, err := consumer.Connect(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			r := &rig{t: t, ctx: testContext(t)}
			r.eventually("connected", nc.IsConnected)
			sub, err := nc.SubscribeSync(nc.NewInbox())
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil || nc.LastError() != nil {
				t.Errorf("the inbox %s: %v, %v\n%s", sub.Subject, err, nc.LastError(), log.String())
			}
		})
	}
}

// The log says what to do about a server that can't be used, not only why.
func TestRemedyIsLogged(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	nc, err := consumer.Connect(consumer.ConnConfig{
		URL: serverOf(t, `authorization { token: t0ken }`).ClientURL(), Token: "wrong",
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
		Remedy: func(err error) string { return "about " + strings.ToLower(err.Error()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r := &rig{t: t, ctx: testContext(t)}
	r.eventually("logged", func() bool { return strings.Contains(log.String(), `remedy="about nats: authorization violation`) })
}

// The API's subjects are those that nats.go asks on.
func TestAPISubject(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	for want, cfg := range map[string]consumer.ConnConfig{
		"$JS.API.INFO": {}, "$JS.hub.API.INFO": {Domain: "hub"}, "my.js.INFO": {APIPrefix: "my.js"},
	} {
		got, err := cfg.JetStream(js.Conn())
		if err != nil || consumer.APISubject(got, "INFO") != want {
			t.Errorf("%s, %v, want %s", consumer.APISubject(got, "INFO"), err, want)
		}
	}
}

// An account's rules are named, with what to set, and an object is named that they hit.
func TestAccountsWithRules(t *testing.T) {
	t.Parallel()
	const account = "accounts { A { %s\nusers: [ { user: a, password: p } ] }\nSYS { users: [ { user: s, password: p } ] } }\nsystem_account: SYS\n"
	for name, tc := range map[string]struct {
		jetStream string
		cfg       consumer.ObjectsConfig
		want      string // a part of the error, empty for none
	}{
		"size wanted":       {"jetstream: { max_bytes_required: true }", consumer.ObjectsConfig{}, "stream CONNECTION_RESULTS: nats: API error: code=400 err_code=10113 description=account requires a stream config to have max bytes set: this account wants a size for each stream: set WORKER_STREAM_MAX_BYTES, such as 1GB"},
		"size given":        {"jetstream: { max_bytes_required: true, max_file: 10MB }", consumer.ObjectsConfig{MaxBytes: 1 << 20}, ""},
		"size too great":    {"jetstream: { disk_max_stream_bytes: 1MB }", consumer.ObjectsConfig{MaxBytes: 1 << 30}, "no more than the account allows one stream"},
		"not enough room":   {"jetstream: { max_file: 3MB }", consumer.ObjectsConfig{MaxBytes: 1 << 20 * 2}, "stream CONNECTION_DEADLETTERS: nats: API error: code=500 err_code=10047 description=insufficient storage resources available: the account or the server has no file storage left"},
		"memory only":       {"jetstream: { max_mem: 1GB, max_file: 0 }", consumer.ObjectsConfig{}, "0 there means memory only"},
		"too few streams":   {"jetstream: { max_streams: 2 }", consumer.ObjectsConfig{}, "stream CONNECTION_REQUESTS: nats: API error: code=400 err_code=10027"},
		"replicas":          {"jetstream: enabled", consumer.ObjectsConfig{Replicas: 3}, "set WORKER_REPLICAS=1, or run a cluster of three"},
		"no JetStream":      {"", consumer.ObjectsConfig{}, "this account has no JetStream"},
		"max ack pending":   {"jetstream: { max_ack_pending: 100 }", consumer.ObjectsConfig{}, ""},
		"a greatest stream": {"jetstream: { disk_max_stream_bytes: 1MB }", consumer.ObjectsConfig{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := natstest.Connect(t, serverOf(t, account, tc.jetStream).ClientURL(), natstest.As("a", "p"))
			tc.cfg.Manage = true
			_, err := consumer.EnsureObjects(testContext(t), js, tc.cfg)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// A cluster that is too small for the replicas is named, and an account that has no consumer left.
func TestTooFewServersAndConsumers(t *testing.T) {
	t.Parallel()
	cluster := natstest.RunCluster(t, 3, natstest.Options{})
	_, err := consumer.EnsureObjects(testContext(t), connect(t, cluster[0].ClientURL()), consumer.ObjectsConfig{Manage: true, Replicas: 5})
	if err == nil || !strings.Contains(err.Error(), "the cluster has too few servers") {
		t.Errorf("five replicas on three servers: %v", err)
	}
	js := natstest.Connect(t, serverOf(t, "accounts { A { jetstream: { max_consumers: 1 }\nusers: [ { user: a, password: p } ] } }").ClientURL(), natstest.As("a", "p"))
	if _, err := consumer.EnsureObjects(testContext(t), js, consumer.ObjectsConfig{Manage: true}); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(testContext(t), consumer.StreamRequests, consumer.ConsumerName); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(testContext(t), consumer.StreamRequests, jetstream.ConsumerConfig{Durable: "other", FilterSubject: "connections.requests.x", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.EnsureObjects(testContext(t), js, consumer.ObjectsConfig{Manage: true}); err == nil || !strings.Contains(err.Error(), "raise max_consumers") {
		t.Errorf("no consumer left: %v", err)
	}
}

// Of what others made, the stream that has the subjects already is looked for, and the domain that is not there.
func TestObjectsThatCanNotBeMade(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Run(t, natstest.Options{}).ClientURL())
	if _, err := js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"connections.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := consumer.EnsureObjects(testContext(t), js, consumer.ObjectsConfig{Manage: true})
	if err == nil || !strings.Contains(err.Error(), "another stream takes the same subjects") {
		t.Errorf("with a stream of all subjects: %v", err)
	}
	hub, err := consumer.ConnConfig{Domain: "hub"}.JetStream(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = consumer.EnsureObjects(testContext(t), hub, consumer.ObjectsConfig{Manage: true}); err == nil || !strings.Contains(err.Error(), `no JetStream answers for the domain "hub"`) {
		t.Errorf("without that domain: %v", err)
	}
	foreign, err := consumer.ConnConfig{APIPrefix: "FOO.API"}.JetStream(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = consumer.EnsureObjects(testContext(t), foreign, consumer.ObjectsConfig{Manage: true}); err == nil || !strings.Contains(err.Error(), `below the prefix "FOO.API"`) || strings.Contains(err.Error(), "this server has no JetStream") {
		t.Errorf("with a prefix that nobody answers: %v", err)
	}
}

// A size is set where there is none to be made, raised to at least what is asked for, and never shrunk.
func TestMaxBytesOfObjects(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	r.ensure(consumer.ObjectsConfig{MaxBytes: 1 << 20})
	if got := r.streamConfig(consumer.StreamResults).MaxBytes; got != 1<<20 {
		t.Errorf("made with %d", got)
	}
	for _, step := range []struct {
		ask, want     int64
		changed, kept string
	}{
		{2 << 20, 2 << 20, "max bytes 1048576 → 2097152", ""}, {1 << 20, 2 << 20, "", "max bytes 2097152"}, {0, 2 << 20, "", "max bytes 2097152"}, {2 << 20, 2 << 20, "", ""},
	} {
		report := r.ensure(consumer.ObjectsConfig{MaxBytes: step.ask})
		for _, c := range report[:3] {
			if strings.Join(c.Changed, "; ") != step.changed || strings.Join(c.Kept, "; ") != step.kept {
				t.Errorf("asked for %d: %+v", step.ask, c)
			}
		}
		if got := r.streamConfig(consumer.StreamRequests).MaxBytes; got != step.want {
			t.Errorf("asked for %d: it is %d", step.ask, got)
		}
	}
	unlimited := newRig(t, natstest.Options{})
	unlimited.ensure(consumer.ObjectsConfig{})
	if c := unlimited.ensure(consumer.ObjectsConfig{MaxBytes: 1 << 20})[0]; c.Changed != nil || unlimited.streamConfig(c.Name).MaxBytes != -1 {
		t.Errorf("one without a limit: %+v", c)
	}
}

// A queue that forgets requests beyond a limit is left alone, and said.
func TestLimitsThatLoseRequestsAreNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	if _, err := r.js.CreateStream(r.ctx, jetstream.StreamConfig{
		Name: consumer.StreamRequests, Subjects: []string{"connections.requests.*"}, Retention: jetstream.WorkQueuePolicy, Duplicates: requestWindow, MaxBytes: 1 << 20,
	}); err != nil {
		t.Fatal(err)
	}
	if kept := r.ensure(consumer.ObjectsConfig{MaxBytes: 1 << 20})[2].Kept; len(kept) != 1 || !strings.Contains(kept[0], "the oldest requests beyond it are lost") {
		t.Errorf("%q", kept)
	}
}

const requestWindow = 100e6 // ns, as the worker makes it
