package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string // file
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pem: filepath.Join(t.TempDir(), "ca.pem")}
	a.cert = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &key.PublicKey)
	if err := os.WriteFile(a.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// pair returns a certificate of a host, or of a client for "", that ends then.
func (a *authority) pair(host string, ends time.Time) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{NotAfter: ends, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else if host != "" {
		template.DNSNames = []string{host}
	}
	return tls.Certificate{Certificate: [][]byte{a.sign(template, &key.PublicKey).Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// served starts a server that answers everything with 200.
func served(t *testing.T, conf *tls.Config) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ErrorLog = nil
	if srv.TLS = conf; conf == nil {
		srv.Start()
	} else {
		srv.StartTLS()
	}
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// What Go says of a failed handshake is understood, whichever way it fails.
func TestRemediesOfTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	server := func(host string, ends time.Time) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ours.pair(host, ends)}}
	}
	mutual := server("127.0.0.1", later)
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool()
	trusting := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: ours.pool(), Certificates: certs}
	}
	for name, c := range map[string]struct {
		server, client *tls.Config
		scheme         string
		want           string
	}{
		"all well":         {server("127.0.0.1", later), trusting(), "https", ""},
		"wrong authority":  {server("127.0.0.1", later), &tls.Config{RootCAs: theirs.pool()}, "https", "set NATS_CA to the PEM file"},
		"expired":          {server("127.0.0.1", past), trusting(), "https", "renew the server's certificate"},
		"another host":     {server("nats.example.com", later), trusting(), "https", "let NATS_URL name a host"},
		"another IP":       {server("127.0.0.2", later), trusting(), "https", "let NATS_URL name a host"},
		"no name at all":   {server("", later), trusting(), "https", "let NATS_URL name a host"},
		"no client's":      {mutual, trusting(), "https", "wants a client certificate: set NATS_CERT"},
		"a stranger's":     {mutual, trusting(theirs.pair("", later)), "https", "NATS_CERT"},
		"an expired one":   {mutual, trusting(ours.pair("", past)), "https", "NATS_CERT"},
		"no TLS":           {nil, trusting(), "https", "speaks no TLS at this port: correct NATS_URL"},
		"no TLS by client": {server("127.0.0.1", later), nil, "http", ""}, // an answer of status 400, see below
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: c.client, DisableKeepAlives: true}, Timeout: 30 * time.Second}
			res, err := client.Get(c.scheme + "://" + served(t, c.server))
			if err == nil {
				_ = res.Body.Close()
			}
			got := NATSServer.Remedy(err)
			if (err == nil) != (c.want == "") || c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%v: remedy %q, want %q", err, got, c.want)
			}
		})
	}
}

func TestRemediesNameTheirOwnSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		peer       Peer
		text, want string
	}{
		{vaultServer, "x509: certificate is valid for a, not b", "VAULT_TLS_SERVER_NAME"},
		{vaultServer, "x509: certificate signed by unknown authority", "VAULT_CACERT"},
		{vaultServer, "remote error: tls: certificate required", "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"},
		{vaultServer, "HTTP 400: Client sent an HTTP request to an HTTPS server.", "VAULT_ADDR begin with https://"},
		{NATSServer, "nats: secure connection required", "NATS_URL begin with tls://"},
		{NATSServer, "nats: secure connection not available", "correct NATS_URL"},
		{flowServer, "x509: certificate signed by unknown authority", "SSL_CERT_FILE"},
		{imsServer, "x509: certificate has expired or is not yet valid: now", "clock"},
		{flowServer, "remote error: tls: handshake failure", ""},
		{flowServer, "connection refused", ""},
	} {
		if got := c.peer.Remedy(errors.New(c.text)); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q", c.text, got)
		}
	}
	if got := NATSServer.Remedy(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	if got := NATSServer.Remedy(context.Canceled); got != "" {
		t.Errorf("of something else: %q", got)
	}
}

// files writes a certificate and its key to PEM files.
func (a *authority) files(pair tls.Certificate) (cert, key string) {
	a.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return cert, key
}

// nats starts a NATS server with TLS.
func (a *authority) nats(host string, ends time.Time, more string) string {
	a.t.Helper()
	cert, key := a.files(a.pair(host, ends))
	conf := filepath.Join(a.t.TempDir(), "nats.conf")
	text := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, %s }", cert, key, a.pem, more)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return natstest.Run(a.t, natstest.Options{ConfigFile: conf}).ClientURL()
}

// What NATS's own client makes of a failed handshake is understood, too.
func TestRemediesOfNATS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	oldCert, oldKey := ours.files(ours.pair("", past))
	for name, c := range map[string]struct {
		url  string
		opts []nats.Option
		want string
	}{
		"wrong authority": {ours.nats("127.0.0.1", later, ""), []nats.Option{nats.RootCAs(theirs.pem)}, "set NATS_CA"},
		"no authority":    {ours.nats("127.0.0.1", later, ""), nil, "set NATS_CA"},
		"expired":         {ours.nats("127.0.0.1", past, ""), []nats.Option{nats.RootCAs(ours.pem)}, "renew the server's certificate"},
		"another host":    {ours.nats("nats.example.com", later, ""), []nats.Option{nats.RootCAs(ours.pem)}, "let NATS_URL name a host"},
		"no client's":     {ours.nats("127.0.0.1", later, "verify: true"), []nats.Option{nats.RootCAs(ours.pem)}, "set NATS_CERT"},
		"an expired one":  {ours.nats("127.0.0.1", later, "verify: true"), []nats.Option{nats.RootCAs(ours.pem), nats.ClientCert(oldCert, oldKey)}, "NATS_CERT"},
		"TLS at once":     {ours.nats("127.0.0.1", later, "handshake_first: true"), []nats.Option{nats.RootCAs(ours.pem), nats.Timeout(time.Minute)}, "set NATS_TLS_FIRST=true"},
		"TLS and no CA":   {ours.nats("127.0.0.1", later, "handshake_first: true"), []nats.Option{nats.Timeout(time.Minute)}, "set NATS_TLS_FIRST=true"},
		"TLS too early":   {natstest.Run(t, natstest.Options{}).ClientURL(), []nats.Option{nats.RootCAs(ours.pem), nats.TLSHandshakeFirst()}, "leave NATS_TLS_FIRST out"},
		"no TLS":          {natstest.Run(t, natstest.Options{}).ClientURL(), []nats.Option{nats.RootCAs(ours.pem), nats.Secure()}, "speaks no TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, err := nats.Connect(c.url, c.opts...)
			if err == nil {
				nc.Close()
			}
			if got := NATSServer.Remedy(err); !strings.Contains(got, c.want) {
				t.Errorf("%v: remedy %q, want %q", err, got, c.want)
			}
		})
	}
}
