package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// authority signs certificates into a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ca   string // file
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)})
	a.ca = filepath.Join(a.dir, "ca.crt")
	return a
}

func (a *authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// sign writes name.crt and name.key. The first one signs itself.
func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	c.SerialNumber, c.Subject, c.NotBefore = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}, time.Now().Add(-2*time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	a.must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	a.must(err)
	a.must(os.WriteFile(filepath.Join(a.dir, name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	a.must(os.WriteFile(filepath.Join(a.dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	cert, err := x509.ParseCertificate(der)
	a.must(err)
	return cert, key
}

// leaf makes a certificate for servers and clients, and returns its two files.
func (a *authority) leaf(name, host string, until time.Time) (cert, key string) {
	a.t.Helper()
	c := &x509.Certificate{NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	a.sign(name, c)
	return filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
}

// natsWith runs a server with the files of this folder: TLS with a certificate for host, if there is an
// authority, and what was done to each file.
func natsWith(t *testing.T, a *authority, host string, until time.Time, tlsEdit, accountsEdit func(string) string) string {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, natsAccount, filepath.Join(dir, "accounts.conf"), accountsEdit)
	var serverEdit func(string) string
	if a != nil {
		cert, key := a.leaf("server", host, until)
		serverEdit = func(s string) string { return strings.Replace(s, "# include ./tls.conf", "include ./tls.conf", 1) }
		copyFile(t, "nats/tls.conf", filepath.Join(dir, "tls.conf"), func(s string) string {
			if tlsEdit != nil {
				s = tlsEdit(s)
			}
			return strings.NewReplacer("/etc/nats/tls/tls.crt", cert, "/etc/nats/tls/tls.key", key, "/etc/nats/tls/ca.crt", a.ca).Replace(s)
		})
	}
	copyFile(t, natsConf, filepath.Join(dir, "server.conf"), serverEdit)
	file := filepath.Join(dir, "server.conf")
	if err := checkNATSFile(t, file); err != nil {
		t.Fatal(err)
	}
	return natstest.Run(t, natstest.Options{ConfigFile: file}).ClientURL()
}

// mutual takes the comment marks off what demands client certificates.
func mutual(tls string) string {
	return strings.NewReplacer("# ca_file:", "ca_file:", "# verify:", "verify:").Replace(tls)
}

// keyed gives the worker an NKey instead of a password, as the comment in accounts.conf says.
func keyed(public string) func(string) string {
	return func(s string) string {
		return strings.NewReplacer("user: worker, password: $NATS_WORKER_PASSWORD", "nkey: "+public, "_INBOX.worker.>", "_INBOX."+public+".>").Replace(s)
	}
}

func newUser(t *testing.T) (public, seedFile string, seed []byte) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if seed, err = pair.Seed(); err != nil {
		t.Fatal(err)
	}
	seedFile = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return public, seedFile, seed
}

// asWorker puts the worker's user and a password into a URL.
func asWorker(url, password string) string {
	return strings.Replace(url, "//", "//worker:"+password+"@", 1)
}

// natsLog is what the worker logs of its connection.
type natsLog struct {
	mu      sync.Mutex
	text    bytes.Buffer // guarded by mu
	changed chan struct{}
}

func (l *natsLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(b)
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return n, err
}

func (l *natsLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// connectWorker connects with the worker's own code, and waits until the log says text.
func connectWorker(ctx context.Context, t *testing.T, cfg consumer.ConnConfig, text string) (*nats.Conn, string) {
	t.Helper()
	log := &natsLog{changed: make(chan struct{}, 1)}
	cfg.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	nc, err := consumer.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	for !strings.Contains(log.String(), text) {
		select {
		case <-log.changed:
		case <-ctx.Done():
			t.Fatalf("the log does not say %q:\n%s", text, log)
		}
	}
	return nc, log.String()
}

// fails checks that a connection does not come about, and that the log says why, at the warning level,
// and no secret.
func fails(t *testing.T, cfg consumer.ConnConfig, why string, secrets ...string) {
	t.Helper()
	nc, log := connectWorker(testContext(t), t, cfg, why)
	if nc.IsConnected() {
		t.Error("it is connected")
	}
	if !strings.Contains(log, `"WARN"`) {
		t.Errorf("nothing of it is said above the debug level:\n%s", log)
	}
	for _, secret := range append(secrets, "pw-worker", "PRIVATE KEY", "SUA") {
		if secret != "" && strings.Contains(log, secret) {
			t.Errorf("the log shows %q", secret)
		}
	}
}

// works checks that a connection comes about with just the worker's rights.
func works(t *testing.T, cfg consumer.ConnConfig) {
	t.Helper()
	b := &broker{t: t}
	allowedTo, _ := connectWorker(testContext(t), t, cfg, "NATS connected")
	if b.do(allowedTo, probe{"pub", "connections.results.acme.created"}); b.denied(allowedTo) {
		t.Errorf("the worker may not publish results: %v", allowedTo.LastError())
	}
	if b.do(allowedTo, probe{"pub", "connections.requests.acme"}); !b.denied(allowedTo) {
		t.Error("the worker may publish requests")
	}
}

func TestNATSConnectsByTLS(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	url := asWorker(natsWith(t, a, "127.0.0.1", later, nil, nil), "pw-worker")
	works(t, consumer.ConnConfig{URL: url, CA: a.ca})
	works(t, consumer.ConnConfig{URL: strings.Replace(url, "nats://", "tls://", 1), CA: a.ca})
	t.Run("unknown authority", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: url, CA: stranger.ca}, "certificate signed by unknown authority")
		fails(t, consumer.ConnConfig{URL: url}, "certificate signed by unknown authority")
	})
	t.Run("wrong password", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: asWorker(strings.Replace(url, "worker:pw-worker@", "", 1), "pw-wrong"), CA: a.ca}, "Authorization Violation", "pw-wrong")
	})
	t.Run("wrong host", func(t *testing.T) {
		other := asWorker(natsWith(t, a, "nats.example.com", later, nil, nil), "pw-worker")
		fails(t, consumer.ConnConfig{URL: other, CA: a.ca}, "127.0.0.1")
	})
	t.Run("expired", func(t *testing.T) {
		other := asWorker(natsWith(t, a, "127.0.0.1", past, nil, nil), "pw-worker")
		fails(t, consumer.ConnConfig{URL: other, CA: a.ca}, "certificate has expired")
	})
	t.Run("a server without TLS", func(t *testing.T) {
		plain := strings.Replace(asWorker(natsWith(t, nil, "", later, nil, nil), "pw-worker"), "nats://", "tls://", 1)
		fails(t, consumer.ConnConfig{URL: plain, CA: a.ca}, "secure connection not available")
	})
}

func TestNATSConnectsByMutualTLS(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	later := time.Now().Add(time.Hour)
	url := asWorker(natsWith(t, a, "127.0.0.1", later, mutual, nil), "pw-worker")
	cert, key := a.leaf("worker", "worker", later)
	works(t, consumer.ConnConfig{URL: url, CA: a.ca, Cert: cert, Key: key})
	t.Run("no certificate", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: url, CA: a.ca}, "certificate required")
	})
	t.Run("another authority's", func(t *testing.T) {
		cert, key := stranger.leaf("worker", "worker", later)
		fails(t, consumer.ConnConfig{URL: url, CA: a.ca, Cert: cert, Key: key}, "tls: ")
	})
	t.Run("expired", func(t *testing.T) {
		cert, key := a.leaf("old", "worker", time.Now().Add(-time.Hour))
		fails(t, consumer.ConnConfig{URL: url, CA: a.ca, Cert: cert, Key: key}, "tls: ")
	})
	t.Run("a certificate is no password", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: strings.Replace(url, "worker:pw-worker@", "", 1), CA: a.ca, Cert: cert, Key: key}, "Authorization Violation")
	})
}

func TestNATSConnectsByNKey(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	public, file, seed := newUser(t)
	url := natsWith(t, a, "127.0.0.1", time.Now().Add(time.Hour), nil, keyed(public))
	works(t, consumer.ConnConfig{URL: url, CA: a.ca, NKey: file})
	t.Run("another's", func(t *testing.T) {
		_, file, wrong := newUser(t)
		fails(t, consumer.ConnConfig{URL: url, CA: a.ca, NKey: file}, "Authorization Violation", string(wrong))
	})
	t.Run("none", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: url, CA: a.ca}, "Authorization Violation", string(seed))
	})
}

// decentral is a server whose accounts are in JWTs.
type decentral struct {
	t       *testing.T
	url     string
	account nkeys.KeyPair
}

func pair(t *testing.T, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, public
}

func encode(t *testing.T, c jwt.Claims, by nkeys.KeyPair) string {
	t.Helper()
	text, err := c.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// newDecentral runs a server in operator mode: server.conf with `operator` and `resolver: MEMORY` in the
// place of accounts.conf.
func newDecentral(t *testing.T) *decentral {
	t.Helper()
	operator, operatorID := pair(t, nkeys.CreateOperator)
	account, accountID := pair(t, nkeys.CreateAccount)
	_, systemID := pair(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(accountID)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	dir := t.TempDir()
	text := fmt.Sprintf("operator: %q\nresolver: MEMORY\nsystem_account: %s\nresolver_preload: {\n%s: %q\n%s: %q\n}\n",
		encode(t, jwt.NewOperatorClaims(operatorID), operator), systemID,
		systemID, encode(t, jwt.NewAccountClaims(systemID), operator), accountID, encode(t, claims, operator))
	copyFile(t, natsConf, filepath.Join(dir, "server.conf"), func(s string) string {
		return strings.Replace(s, "include ./accounts.conf", "include ./operator.conf", 1)
	})
	if err := os.WriteFile(filepath.Join(dir, "operator.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natstest.Run(t, natstest.Options{ConfigFile: filepath.Join(dir, "server.conf")}).ClientURL()
	return &decentral{t, url, account}
}

// creds makes the worker's credentials, with the rights that accounts.conf grants it.
func (d *decentral) creds(by nkeys.KeyPair, until time.Time) (file, seed string) {
	d.t.Helper()
	public, _, secret := newUser(d.t)
	user := jwt.NewUserClaims(public)
	user.Name, user.Expires = "worker", until.Unix()
	for _, right := range rightsOf(d.t, "worker") {
		if right.verb == "pub" {
			user.Pub.Allow.Add(right.subject)
		} else {
			user.Sub.Allow.Add(right.subject)
		}
	}
	text, err := jwt.FormatUserConfig(encode(d.t, user, by), secret)
	if err != nil {
		d.t.Fatal(err)
	}
	file = filepath.Join(d.t.TempDir(), "worker.creds")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return file, string(secret)
}

func TestNATSConnectsByCreds(t *testing.T) {
	t.Parallel()
	d := newDecentral(t)
	later := time.Now().Add(time.Hour)
	file, _ := d.creds(d.account, later)
	works(t, consumer.ConnConfig{URL: d.url, Creds: file})
	t.Run("expired", func(t *testing.T) {
		file, seed := d.creds(d.account, time.Now().Add(-time.Hour))
		fails(t, consumer.ConnConfig{URL: d.url, Creds: file}, "Authorization Violation", seed)
	})
	t.Run("signed by another account", func(t *testing.T) {
		other, _ := pair(t, nkeys.CreateAccount)
		file, seed := d.creds(other, later)
		fails(t, consumer.ConnConfig{URL: d.url, Creds: file}, "Authorization Violation", seed)
	})
	t.Run("none", func(t *testing.T) {
		fails(t, consumer.ConnConfig{URL: d.url}, "Authorization Violation")
	})
}

// A worker with its creds makes its objects and works, not only connects.
func TestNATSWorkerWithCredsMakesItsObjects(t *testing.T) {
	t.Parallel()
	d := newDecentral(t)
	file, _ := d.creds(d.account, time.Now().Add(time.Hour))
	nc, _ := connectWorker(testContext(t), t, consumer.ConnConfig{URL: d.url, Creds: file}, "NATS connected")
	b := &broker{t: t, url: d.url}
	js := natstest.JetStream(t, nc)
	b.createObjects(testContext(t), js)
	if b.denied(nc) {
		t.Error(nc.LastError())
	}
}
