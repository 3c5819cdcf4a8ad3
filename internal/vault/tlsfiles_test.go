package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// authority signs certificates for the loopback address.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, a.pem = a.issue(true)
	return a
}

func (a *authority) issue(ca bool) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serial.String()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: ca,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if ca {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// pair returns a new certificate and its key as files have them.
func (a *authority) pair() (cert, key string) {
	a.t.Helper()
	_, private, cert := a.issue(false)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// mutual is a Vault that wants a client certificate, and whose own changes.
type mutual struct {
	*httptest.Server
	mu    sync.Mutex
	conf  *tls.Config
	shown []string // common names of the clients' certificates, one a request
}

func newMutual(t *testing.T, a *authority) *mutual {
	t.Helper()
	m := &mutual{}
	m.use(a)
	vault := serverOf(vaulttest.Config{})
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.shown = append(m.shown, r.TLS.PeerCertificates[0].Subject.CommonName)
		m.mu.Unlock()
		vault.ServeHTTP(w, r)
	}))
	m.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.conf, nil
	}}
	m.StartTLS()
	t.Cleanup(m.Close)
	return m
}

// use has new connections served with a certificate of a's, to clients with one of a's.
func (m *mutual) use(a *authority) {
	a.t.Helper()
	cert, key := a.pair()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conf = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
}

func (m *mutual) lastShown() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown[len(m.shown)-1]
}

// tlsDir is a directory as Kubernetes makes it: the files are links through one that is replaced.
type tlsDir struct {
	t    *testing.T
	path string
	n    int
}

// store replaces all files at once.
func (d *tlsDir) store(files map[string]string) {
	d.t.Helper()
	d.n++
	next := filepath.Join(d.path, "..v"+string(rune('0'+d.n)))
	steps := []error{os.Mkdir(next, 0o700)}
	for name, content := range files {
		steps = append(steps, os.WriteFile(filepath.Join(next, name), []byte(content), 0o600))
		if d.n == 1 {
			steps = append(steps, os.Symlink(filepath.Join("..data", name), filepath.Join(d.path, name)))
		}
	}
	link := filepath.Join(d.path, "..tmp")
	steps = append(steps, os.Symlink(next, link), os.Rename(link, filepath.Join(d.path, "..data")))
	for _, err := range steps {
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *tlsDir) storePair(a *authority) {
	d.t.Helper()
	cert, key := a.pair()
	d.store(map[string]string{"ca.crt": a.pem, "tls.crt": cert, "tls.key": key})
}

// later is a clock that can be put forward.
type later struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (l *later) Now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Add(l.ahead)
}

func (l *later) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ahead += d
}

// TestTLSFilesRotate replaces authority, certificate and key, without a restart.
func TestTLSFilesRotate(t *testing.T) {
	t.Parallel()
	for name, conf := range map[string]func(dir string) *vaultapi.TLSConfig{
		"CA file": func(dir string) *vaultapi.TLSConfig { return &vaultapi.TLSConfig{CACert: dir + "/ca.crt"} },
		"CA path": func(dir string) *vaultapi.TLSConfig { return &vaultapi.TLSConfig{CAPath: dir + "/authorities"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkRotation(t, conf)
		})
	}
}

func checkRotation(t *testing.T, conf func(dir string) *vaultapi.TLSConfig) {
	first, second := newAuthority(t), newAuthority(t)
	server := newMutual(t, first)
	dir := &tlsDir{t: t, path: t.TempDir()}
	dir.storePair(first)
	authorities := dir.path + "/authorities"
	writeAuthority(t, authorities, first)
	files := conf(dir.path)
	files.ClientCert, files.ClientKey = dir.path+"/tls.crt", dir.path+"/tls.key"
	clock := new(later)
	h := &harness{t: t, reg: prometheus.NewPedanticRegistry(), witness: &witness{}}
	h.run(Config{Address: server.URL, Token: provision.NewSensitive("vaulttest-root"), TLS: files, now: clock.Now})
	got, err := h.resolve(false)
	checkValue(t, got, err, "dapi-"+canary)
	before := server.lastShown()

	dir.storePair(first) // another certificate of the same authority, and nothing fails
	clock.pass(lookEvery)
	got, err = h.resolve(false)
	checkValue(t, got, err, "dapi-"+canary)
	if server.lastShown() == before {
		t.Error("the old certificate is still shown")
	}

	server.use(second)
	server.CloseClientConnections()
	_, err = h.resolve(false)
	checkProblem(t, err, provision.SecretUnavailable)

	cert, _ := second.pair()
	dir.store(map[string]string{"ca.crt": second.pem, "tls.crt": cert, "tls.key": "half written"})
	writeAuthority(t, authorities, second)
	_, err = h.resolve(false)
	checkProblem(t, err, provision.SecretUnavailable)
	if !strings.Contains(h.witness.String(), "can't be used") {
		t.Error("nobody was told of files that can't be used")
	}

	dir.storePair(second) // seen at once, for the last request failed
	got, err = h.resolve(false)
	checkValue(t, got, err, "dapi-"+canary)
}

func writeAuthority(t *testing.T, dir string, a *authority) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(a.pem), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenTLSFilesKeepTheOldOnes: a rotation gone wrong cuts nobody off.
func TestBrokenTLSFilesKeepTheOldOnes(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server := newMutual(t, a)
	dir := &tlsDir{t: t, path: t.TempDir()}
	dir.storePair(a)
	clock := new(later)
	client, err := New(Config{Address: server.URL, Token: provision.NewSensitive("t"), now: clock.Now, TLS: &vaultapi.TLSConfig{
		CACert: dir.path + "/ca.crt", ClientCert: dir.path + "/tls.crt", ClientKey: dir.path + "/tls.key",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []map[string]string{
		{}, {"ca.crt": a.pem}, {"ca.crt": "", "tls.crt": "", "tls.key": ""}, {"ca.crt": a.pem, "tls.crt": a.pem, "tls.key": a.pem},
	} {
		dir.store(broken)
		clock.pass(lookEvery)
		server.CloseClientConnections()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := client.Health(ctx); err != nil {
			t.Errorf("%d files: %v", len(broken), err)
		}
		cancel()
	}
}
