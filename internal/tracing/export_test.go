package tracing

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
)

func (k *kit) one() { k.Begin(delivery(callers)).End(provision.Outcome{}, "ack", nil) }

// What is said of the process: OTEL_SERVICE_NAME beats service.name, and there is a name in any case.
func TestResource(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		service string
		attrs   map[string]string
		want    string
	}{
		{"", nil, "flow-worker"}, {"a", nil, "a"}, {"a", map[string]string{"service.name": "b"}, "a"}, {"", map[string]string{"service.name": "b"}, "b"},
	} {
		k := newKit(t, func(cfg *Config) {
			cfg.Service, cfg.Attributes, cfg.Version, cfg.Instance, cfg.Gzip = c.service, c.attrs, "1", "w-1", true
		})
		k.one()
		got := k.spans()[0].Resource
		if got["service.name"] != c.want || got["service.version"] != "1" || got["service.instance.id"] != "w-1" || got["telemetry.sdk.language"] != "go" {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestSamplers(t *testing.T) {
	t.Parallel()
	unsampled := strings.TrimSuffix(callers, "1") + "0"
	for name, want := range map[string]int{ // :: sampler → spans of a sampled, an unsampled and an own trace
		"": 2, "always_on": 3, "always_off": 0, "traceidratio": 3, "parentbased_always_on": 2, "parentbased_always_off": 1, "parentbased_traceidratio": 2,
	} {
		k := newKit(t, func(c *Config) { c.Sampler, c.Ratio = name, 1 })
		for _, parent := range []string{callers, unsampled, ""} {
			k.Begin(delivery(parent)).End(provision.Outcome{}, "ack", nil)
		}
		if got := len(k.spans()); got != want {
			t.Errorf("%s: %d spans, want %d", name, got, want)
		}
	}
	if _, err := New(Config{Endpoint: "http://127.0.0.1:1/v1/traces", Sampler: "xray"}); err == nil || !strings.Contains(err.Error(), `"xray"`) {
		t.Errorf("an unknown sampler: %v", err)
	}
}

// A collector that refuses is told once, without what it says of the headers; that it takes spans again,
// too. What it refused is lost.
func TestRefusals(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()
	var well atomic.Bool
	var calls atomic.Int32
	parrot := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if !well.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte("no good key: " + r.Header.Get("X-Key") + " in " + r.URL.String()))
		}
	}))
	defer parrot.Close()
	k := newKit(t, func(c *Config) {
		c.Endpoint, c.Headers = parrot.URL+"/v1/traces", map[string]string{"X-Key": secret}
		c.Delay = time.Hour
	})
	for range 3 {
		k.one()
		_ = k.provider.ForceFlush(k.ctx)
	}
	if n := strings.Count(k.log.String(), "spans can't be exported"); n != 1 || !strings.Contains(k.log.String(), "401") {
		t.Errorf("told %d times:\n%s", n, k.log.String())
	}
	well.Store(true)
	k.one()
	_ = k.provider.ForceFlush(k.ctx)
	if !strings.Contains(k.log.String(), "spans are exported again") || !strings.Contains(k.log.String(), "lost=3") || calls.Load() != 4 {
		t.Errorf("%d calls:\n%s", calls.Load(), k.log.String())
	}
	hunt := canary.NewHunt(map[string]string{"key": secret})
	if hunt.Search("log", k.log.String()) > 0 {
		t.Errorf("the log tells the key:\n%s", k.log.String())
	}
}

// The headers go to the collector, not to where it points.
func TestNoRedirects(t *testing.T) {
	t.Parallel()
	elsewhere := tracingtest.Start()
	defer elsewhere.Close()
	pointing := httptest.NewServer(http.RedirectHandler(elsewhere.URL()+"/v1/traces", http.StatusTemporaryRedirect))
	defer pointing.Close()
	k := newKit(t, func(c *Config) {
		c.Endpoint, c.Headers = pointing.URL+"/v1/traces", map[string]string{"X-Key": "k"}
	})
	k.one()
	if n := len(k.spans()) + elsewhere.Calls(); n > 0 || !strings.Contains(k.log.String(), "307") {
		t.Errorf("%d calls elsewhere:\n%s", elsewhere.Calls(), k.log.String())
	}
}

// A collector that hangs holds Shutdown up until its context ends, and not a span's end at all; nothing
// is left running then (see TestMain).
func TestHang(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(c *Config) { c.QueueSize, c.BatchSize = 2, 1 })
	k.collector.Hang()
	for range 100 { // far more than the queue takes
		k.one()
	}
	if _, err := k.collector.Await(k.ctx, func(c *tracingtest.Collector) bool { return c.Calls() > 0 }); err != nil {
		t.Fatal("nothing hangs")
	}
	ctx, cancel := context.WithTimeout(k.ctx, 50*time.Millisecond)
	defer cancel()
	if err := k.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	k.one() // too late, and no harm
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	c := tracingtest.Start()
	defer c.Close()
	secure := httptest.NewUnstartedServer(c)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	dir := t.TempDir()
	write := func(name string, blocks ...*pem.Block) string {
		path := filepath.Join(dir, name)
		var all []byte
		for _, b := range blocks {
			all = append(all, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority := write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	certBlock, keyBlock := pair(t)
	cert, key, empty := write("cert.pem", certBlock), write("key.pem", keyBlock), write("empty.pem")
	k := newKit(t, func(cfg *Config) {
		cfg.Endpoint, cfg.CAFile, cfg.ClientCert, cfg.ClientKey = secure.URL+"/v1/traces", authority, cert, key
	})
	k.one()
	k.spans()
	if len(c.Spans()) != 1 {
		t.Errorf("%d spans by TLS:\n%s", len(c.Spans()), k.log.String())
	}
	unsure := newKit(t, func(cfg *Config) { cfg.Endpoint = secure.URL + "/v1/traces" })
	unsure.one()
	unsure.spans()
	if len(c.Spans()) != 1 || !strings.Contains(unsure.log.String(), "certificate") {
		t.Errorf("a collector that nobody vouches for:\n%s", unsure.log.String())
	}
	for want, cfg := range map[string]Config{
		"OTEL_EXPORTER_OTLP_CERTIFICATE: its file can't be read":        {CAFile: dir + "/none"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE: the file holds no certificate": {CAFile: empty},
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: its file":               {ClientCert: dir + "/none", ClientKey: key},
		"OTEL_EXPORTER_OTLP_CLIENT_KEY: its file":                       {ClientCert: cert},
		"are no pair": {ClientCert: cert, ClientKey: authority},
	} {
		cfg.Endpoint = secure.URL
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// pair returns a certificate that vouches for itself, and its key.
func pair(t *testing.T) (cert, key *pem.Block) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "worker"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return &pem.Block{Type: "CERTIFICATE", Bytes: der}, &pem.Block{Type: "PRIVATE KEY", Bytes: raw}
}
