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
	"net/url"
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

// What the environment says of the process beats what the program says; there is a name in any case.
func TestResource(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ service, attrs, want string }{
		{"", "", "flow-worker"}, {"a", "", "a"}, {"a", "service.name=b", "a"}, {"", "service.name=b,team=x%20y", "b"},
	} {
		k := newKit(t, func(cfg *Config) {
			cfg.Env["OTEL_SERVICE_NAME"], cfg.Env["OTEL_RESOURCE_ATTRIBUTES"], cfg.Env["OTEL_EXPORTER_OTLP_COMPRESSION"] = c.service, c.attrs, "gzip"
			cfg.Version, cfg.Instance = "1", "w-1"
		})
		k.one()
		got := k.spans()[0].Resource
		if got["service.name"] != c.want || got["service.version"] != "1" || got["service.instance.id"] != "w-1" || got["telemetry.sdk.language"] != "go" {
			t.Errorf("%+v: %v", c, got)
		}
		if strings.Contains(c.attrs, "team") && got["team"] != "x y" {
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
		k := newKit(t, func(c *Config) { c.Env["OTEL_TRACES_SAMPLER"], c.Env["OTEL_TRACES_SAMPLER_ARG"] = name, "1" })
		for _, parent := range []string{callers, unsampled, ""} {
			k.Begin(delivery(parent)).End(provision.Outcome{}, "ack", nil)
		}
		if got := len(k.spans()); got != want {
			t.Errorf("%s: %d spans, want %d", name, got, want)
		}
	}
}

// The SDK reads what it is given and nothing else, and the process's environment stays as it was.
func TestEnvironment(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	t.Setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0")
	k := newKit(t, func(c *Config) { c.Env["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"] = "3" })
	k.one()
	if all := k.spans(); len(all) != 1 || all[0].Attrs["flow_worker.tenant"] != "acm" {
		t.Errorf("%+v", all)
	}
	if os.Getenv("OTEL_TRACES_SAMPLER") != "always_off" || os.Getenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT") != "0" || os.Getenv("OTEL_BSP_SCHEDULE_DELAY") != "" {
		t.Errorf("the environment was changed: %q", os.Environ())
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
		c.Env["OTEL_EXPORTER_OTLP_ENDPOINT"], c.Env["OTEL_EXPORTER_OTLP_HEADERS"] = parrot.URL, "X-Key="+url.PathEscape(secret)
		c.Env["OTEL_BSP_SCHEDULE_DELAY"] = "3600000"
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
		c.Env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], c.Env["OTEL_EXPORTER_OTLP_HEADERS"] = pointing.URL+"/v1/traces", "X-Key=k"
	})
	k.one()
	if n := len(k.spans()) + elsewhere.Calls(); n > 0 || !strings.Contains(k.log.String(), "redirects") {
		t.Errorf("%d calls elsewhere:\n%s", elsewhere.Calls(), k.log.String())
	}
}

// A collector that hangs holds Shutdown up until its context ends, and not a span's end at all; nothing
// is left running then (see TestMain).
func TestHang(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(c *Config) { c.Env["OTEL_BSP_MAX_QUEUE_SIZE"], c.Env["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "2", "1" })
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
	cert, key := write("cert.pem", certBlock), write("key.pem", keyBlock)
	k := newKit(t, func(cfg *Config) {
		cfg.Env["OTEL_EXPORTER_OTLP_ENDPOINT"], cfg.Env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = secure.URL, authority
		cfg.Env["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"], cfg.Env["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = cert, key
	})
	k.one()
	k.spans()
	if len(c.Spans()) != 1 {
		t.Errorf("%d spans by TLS:\n%s", len(c.Spans()), k.log.String())
	}
	unsure := newKit(t, func(cfg *Config) { cfg.Env["OTEL_EXPORTER_OTLP_ENDPOINT"] = secure.URL })
	unsure.one()
	unsure.spans()
	if len(c.Spans()) != 1 || !strings.Contains(unsure.log.String(), "certificate") {
		t.Errorf("a collector that nobody vouches for:\n%s", unsure.log.String())
	}
	cfg := Config{Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_CERTIFICATE": authority}}
	if _, err := New(cfg); err == nil {
		t.Error("plain http with an authority to trust: no error")
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
