package consumer_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

func TestConnectNamesBadFiles(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("SUsecret-seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]consumer.ConnConfig{
		"creds": {Creds: missing}, "nkey": {NKey: missing}, "ca": {CA: missing}, "cert": {Cert: missing, Key: missing},
		"nkey that is none": {NKey: garbage}, "ca that is none": {CA: garbage}, "pair that is none": {Cert: garbage, Key: garbage},
		"cert without key": {Cert: garbage}, "URL": {URL: "nats://bad host:x"},
	} {
		if cfg.URL == "" {
			cfg.URL = "nats://127.0.0.1:1"
		}
		nc, err := consumer.Connect(cfg)
		if err == nil {
			nc.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if strings.Contains(err.Error(), "secret-seed") {
			t.Errorf("%s: the error shows the seed: %v", name, err)
		}
	}
}

func TestConnectGivesItsName(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	if nc := r.js.Conn(); !nc.IsConnected() || nc.Opts.Name != t.Name() {
		t.Errorf("connected %v as %q", nc.IsConnected(), nc.Opts.Name)
	}
}

func TestConnectionIsLoggedWithoutPassword(t *testing.T) {
	t.Parallel()
	r := newRig(t, natstest.Options{})
	var log lockedBuffer
	url := strings.Replace(r.server.ClientURL(), "nats://", "nats://user:pa55word@", 1)
	nc, err := consumer.Connect(consumer.ConnConfig{URL: url, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	handler := nc.Opts.ClosedCB
	nc.SetClosedHandler(func(nc *nats.Conn) { handler(nc); close(closed) })
	r.eventually("connected", func() bool { return strings.Contains(log.String(), "NATS connected") })
	if err := r.server.Restart(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("reconnected", func() bool { return strings.Contains(log.String(), "NATS reconnected") })
	nc.Close()
	receive(r, closed, "end of the connection")
	if text := log.String(); strings.Contains(text, "pa55word") || !strings.Contains(text, "NATS connection closed") {
		t.Errorf("log:\n%s", text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func unsigned([]byte) ([]byte, error) { return nil, nil }

// failing are credentials that can't be read any more.
func failing(o *nats.Options) error {
	o.UserJWT = func() (string, error) { return "", errors.New("no") }
	return nil
}

// claims is a user's JWT with that payload; nobody here looks at its signature.
func claims(payload string) nats.Option {
	token := "x." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".x"
	return nats.UserJWT(func() (string, error) { return token, nil }, unsigned)
}

func TestOwnInbox(t *testing.T) {
	t.Parallel()
	const ordinary = "" // which nats.go takes for "_INBOX"
	for name, c := range map[string]struct {
		url  string
		opt  nats.Option
		want string
	}{
		"user":                  {"nats://127.0.0.1", nats.UserInfo("worker", "p"), "_INBOX.worker"},
		"user in the URL":       {"nats://worker:p@127.0.0.1", nil, "_INBOX.worker"},
		"user in the second":    {"nats://127.0.0.1,nats://worker:p@127.0.0.1", nil, "_INBOX.worker"},
		"URL beats option":      {"nats://worker:p@127.0.0.1", nats.UserInfo("other", "p"), "_INBOX.worker"},
		"odd user":              {"nats://127.0.0.1", nats.UserInfo("a.b *>=é", "p"), "_INBOX.a=2Eb=20=2A=3E=3D=C3=A9"},
		"nkey":                  {"nats://127.0.0.1", nats.Nkey("UABC", unsigned), "_INBOX.UABC"},
		"nkey beats URL":        {"nats://worker:p@127.0.0.1", nats.Nkey("UABC", unsigned), "_INBOX.UABC"},
		"JWT":                   {"nats://worker:p@127.0.0.1", claims(`{"name":"fleet-1","sub":"UABC"}`), "_INBOX.fleet-1"},
		"JWT without a name":    {"nats://127.0.0.1", claims(`{"sub":"UABC"}`), "_INBOX.UABC"},
		"JWT that is no JSON":   {"nats://127.0.0.1", claims(`{"name":1}`), ordinary},
		"JWT that is no base64": {"nats://127.0.0.1", nats.UserJWT(func() (string, error) { return "a.ä.c", nil }, unsigned), ordinary},
		"JWT that is none":      {"nats://127.0.0.1", nats.UserJWT(func() (string, error) { return "", nil }, unsigned), ordinary},
		"JWT that can't be had": {"nats://127.0.0.1", failing, ordinary},
		"token":                 {"nats://s3cret@127.0.0.1", nil, ordinary},
		"nobody":                {"nats://127.0.0.1", nil, ordinary},
		"no URL":                {"nats://%zz", nil, ordinary},
	} {
		o := nats.GetDefaultOptions()
		o.Servers = strings.Split(c.url, ",")
		for _, opt := range []nats.Option{c.opt, consumer.OwnInbox()} {
			if opt == nil {
				continue
			}
			if err := opt(&o); err != nil {
				t.Fatal(err)
			}
		}
		if o.InboxPrefix != c.want {
			t.Errorf("%s: %q, want %q", name, o.InboxPrefix, c.want)
		}
	}
}

// A worker's connection has its own inbox, whatever it logs in by.
func TestConnectHasItsOwnInbox(t *testing.T) {
	t.Parallel()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	seedFile, conf := filepath.Join(dir, "seed"), filepath.Join(dir, "server.conf")
	users := `authorization { users: [
		{ user: one, password: p, permissions { publish: "x", subscribe: "_INBOX.one.>", allow_responses: true } }
		{ user: echo, password: p }
		{ nkey: ` + public + `, permissions { publish: "x", subscribe: "_INBOX.` + public + `.>" } } ] }`
	if err := errors.Join(os.WriteFile(seedFile, seed, 0o600), os.WriteFile(conf, []byte(users), 0o600)); err != nil {
		t.Fatal(err)
	}
	url := natstest.Run(t, natstest.Options{ConfigFile: conf}).ClientURL()
	echo := natstest.Connect(t, url, natstest.As("echo", "p")).Conn()
	if _, err := echo.Subscribe("x", func(msg *nats.Msg) { _ = msg.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	if err := echo.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for prefix, cfg := range map[string]consumer.ConnConfig{
		"_INBOX.one.": {URL: strings.Replace(url, "//", "//one:p@", 1)}, "_INBOX." + public + ".": {URL: url, NKey: seedFile},
	} {
		nc, err := consumer.Connect(cfg)
		if err != nil {
			t.Fatal(err)
		}
		natstest.JetStream(t, nc) // closes it
		if _, err := nc.RequestWithContext(ctx, "x", nil); err != nil || !strings.HasPrefix(nc.NewInbox(), prefix) {
			t.Errorf("%s: inbox %s, answer %v, refused %v", prefix, nc.NewInbox(), err, nc.LastError())
		}
	}
}
