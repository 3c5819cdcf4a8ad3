package consumer_test

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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

// identity is what a client shows to a server, and the server's configuration that accepts it alone.
// Files are those that the client reads, by name.
type identity struct {
	files  map[string]string
	server string
}

// rotation is a way to log in whose files are replaced under a running connection.
type rotation struct {
	conf func(file func(string) string) consumer.ConnConfig
	next func(t *testing.T) identity // another one with each call
}

var rotations = map[string]rotation{
	"nkey": {
		func(file func(string) string) consumer.ConnConfig { return consumer.ConnConfig{NKey: file("seed")} },
		nkeyIdentity,
	},
	"creds": {
		func(file func(string) string) consumer.ConnConfig { return consumer.ConnConfig{Creds: file("creds")} },
		credsIdentity,
	},
	"TLS and mTLS": {
		func(file func(string) string) consumer.ConnConfig {
			return consumer.ConnConfig{CA: file("ca"), Cert: file("cert"), Key: file("key")}
		},
		tlsIdentity,
	},
	"TLS pair and nkey": {
		func(file func(string) string) consumer.ConnConfig {
			return consumer.ConnConfig{CA: file("ca"), Cert: file("cert"), Key: file("key"), NKey: file("seed")}
		},
		func(t *testing.T) identity {
			pair, key := tlsIdentity(t), nkeyIdentity(t)
			pair.files["seed"] = key.files["seed"]
			return identity{pair.files, pair.server + key.server}
		},
	},
}

// TestFilesAreReadAgain has the server come back accepting another identity alone, first with the
// client's files gone, as they may be amid a rotation, and then with the new ones.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	for name, way := range rotations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, file := newRotating(t, way)
			r.rotate(way.next(t), file)
			r.rotate(way.next(t), file)
		})
	}
}

// TestOldIdentityIsRefused makes sure that the servers above tell one identity from another.
func TestOldIdentityIsRefused(t *testing.T) {
	t.Parallel()
	for name, way := range rotations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRotating(t, way)
			r.serve(way.next(t))
			r.await("uthorization", "certificate")
			if r.nc.IsConnected() {
				t.Error("connected as before")
			}
		})
	}
}

// rotating is a connection to a server whose configuration changes.
type rotating struct {
	t         *testing.T
	server    *natstest.Server
	conf      string
	nc        *nats.Conn
	connected chan nats.Status
	failures  chan string // texts of failed attempts
}

// Write implements io.Writer for the log.
func (r *rotating) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("not reached yet")) {
		select {
		case r.failures <- string(line):
		default:
		}
	}
	return len(line), nil
}

// await returns when an attempt has failed for one of the given causes.
func (r *rotating) await(causes ...string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	for {
		select {
		case text := <-r.failures:
			if slices.ContainsFunc(causes, func(c string) bool { return strings.Contains(text, c) }) {
				return
			}
		case <-ctx.Done():
			r.t.Fatalf("no attempt failed for %q; the last error: %v", causes, r.nc.LastError())
		}
	}
}

func newRotating(t *testing.T, way rotation) (*rotating, func(string) string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	r := &rotating{t: t, conf: file("server.conf"), failures: make(chan string, 100)}
	first := way.next(t)
	write(t, r.conf, first.server)
	first.store(t, file)
	r.server = natstest.Run(t, natstest.Options{ConfigFile: r.conf})
	conf := way.conf(file)
	conf.URL, conf.Name = r.server.ClientURL(), t.Name()
	conf.Log = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	nc, err := consumer.Connect(conf)
	if err != nil {
		t.Fatal(err)
	}
	natstest.JetStream(t, nc) // which closes it in the end
	if !nc.IsConnected() {
		t.Fatalf("not connected: %v", nc.LastError())
	}
	r.nc = nc
	r.connected = nc.StatusChanged(nats.CONNECTED)
	return r, file
}

// serve has the server come back with an identity's configuration. All connections are cut.
func (r *rotating) serve(id identity) {
	r.t.Helper()
	write(r.t, r.conf, id.server)
	if err := r.server.Restart(testContext(r.t)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rotating) rotate(id identity, file func(string) string) {
	r.t.Helper()
	for name := range id.files {
		if err := os.Remove(file(name)); err != nil {
			r.t.Fatal(err)
		}
	}
	r.serve(id)
	r.await("no such file")
	ctx := testContext(r.t)
	id.store(r.t, file)
	select {
	case <-r.connected:
	case <-ctx.Done():
		r.t.Fatalf("did not come back: %v", r.nc.LastError())
	}
	if err := r.nc.FlushWithContext(ctx); err != nil {
		r.t.Error(err)
	}
}

func (id identity) store(t *testing.T, file func(string) string) {
	t.Helper()
	for name, content := range id.files {
		write(t, file(name), content)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func nkeyIdentity(t *testing.T) identity {
	t.Helper()
	public, seed := newKeys(t, nkeys.CreateUser)
	return identity{map[string]string{"seed": seed}, fmt.Sprintf("authorization { users = [ { nkey: %s } ] }\n", public)}
}

// newKeys returns a new public key and its seed.
func newKeys(t *testing.T, create func() (nkeys.KeyPair, error)) (public, seed string) {
	t.Helper()
	pair, err := create()
	must(t, err)
	public, err = pair.PublicKey()
	must(t, err)
	raw, err := pair.Seed()
	must(t, err)
	return public, string(raw)
}

// credsIdentity is a user of a whole new operator, so that no other creds are good there.
func credsIdentity(t *testing.T) identity {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	must(t, err)
	operatorID, err := operator.PublicKey()
	must(t, err)
	account, err := nkeys.CreateAccount()
	must(t, err)
	accountID, err := account.PublicKey()
	must(t, err)
	systemID, _ := newKeys(t, nkeys.CreateAccount)
	userID, userSeed := newKeys(t, nkeys.CreateUser)

	sign := func(c jwt.Claims, by nkeys.KeyPair) string {
		text, err := c.Encode(by)
		must(t, err)
		return text
	}
	user := sign(jwt.NewUserClaims(userID), account)
	creds, err := jwt.FormatUserConfig(user, []byte(userSeed))
	must(t, err)
	return identity{map[string]string{"creds": string(creds)}, fmt.Sprintf(
		"operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n",
		sign(jwt.NewOperatorClaims(operatorID), operator), systemID,
		systemID, sign(jwt.NewAccountClaims(systemID), operator), accountID, sign(jwt.NewAccountClaims(accountID), operator))}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tlsIdentity has an authority of its own, a server's certificate and a client's.
func tlsIdentity(t *testing.T) identity {
	t.Helper()
	ca, caKey, caPEM, _ := certificate(t, nil, nil)
	_, _, serverPEM, serverKey := certificate(t, ca, caKey)
	_, _, clientPEM, clientKey := certificate(t, ca, caKey)
	dir := t.TempDir() // what the server reads
	files := map[string]string{"cert_file": serverPEM, "key_file": serverKey, "ca_file": caPEM}
	var lines []string
	for name, content := range files {
		path := filepath.Join(dir, name)
		write(t, path, content)
		lines = append(lines, fmt.Sprintf("%s: %q", name, path))
	}
	return identity{map[string]string{"ca": caPEM, "cert": clientPEM, "key": clientKey},
		"tls { " + strings.Join(lines, ", ") + ", verify: true }\n"}
}

// certificate returns a new one for the loopback address, signed by ca, or an authority for nil.
func certificate(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: t.Name() + serial.String()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: ca == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if ca == nil {
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
