package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelsdk "go.opentelemetry.io/otel/sdk"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/flow-worker/flow-worker/internal/scrub"
)

func sdkVersion() string { return otelsdk.Version() }

const (
	defaultTimeout = 10 * time.Second
	maxPEM         = 1 << 20     // of a file with certificates or a key, in bytes
	tellAgain      = time.Minute // how often failing exports are told
	maxMessage     = 300         // of a collector's words in the log, in characters
)

// newExporter returns an exporter that speaks OTLP over HTTP.
func newExporter(cfg Config) (*reporter, error) {
	tlsConfig, err := tlsOf(cfg)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	compression := otlptracehttp.NoCompression
	if cfg.Gzip {
		compression = otlptracehttp.GzipCompression
	}
	headers := cfg.Headers
	if headers == nil {
		headers = map[string]string{}
	}
	client := newClient(cfg.Timeout, tlsConfig)
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(cfg.Endpoint), otlptracehttp.WithHeaders(headers), otlptracehttp.WithCompression(compression),
		otlptracehttp.WithHTTPClient(client))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &reporter{
		SpanExporter: exporter, log: cfg.Log, known: scrub.New(slices.Collect(maps.Values(headers))...),
		idle: client.CloseIdleConnections, ended: make(chan struct{}),
	}, nil
}

// newClient returns a client that follows no redirect: the headers go to the collector alone.
func newClient(timeout time.Duration, tlsConfig *tls.Config) *http.Client {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    timeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

func tlsOf(cfg Config) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := readPEM(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("OTEL_EXPORTER_OTLP_CERTIFICATE: the file holds no certificate; want PEM")
		}
	}
	if cfg.ClientCert == "" && cfg.ClientKey == "" {
		return out, nil
	}
	cert, err := readPEM(cfg.ClientCert)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: %w", err)
	}
	key, err := readPEM(cfg.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_KEY: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, errors.New("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY are no pair; want the PEM files of one")
	}
	out.Certificates = []tls.Certificate{pair}
	return out, nil
}

func readPEM(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		if perr := (*os.PathError)(nil); errors.As(err, &perr) {
			err = perr.Err // somebody may have set the contents where the path belongs
		}
		return nil, fmt.Errorf("its file can't be read: %w", err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// reporter tells the log of exports that fail, and nobody else: the SDK would write them to stderr.
type reporter struct {
	sdk.SpanExporter
	log   *slog.Logger
	known scrub.Scrubber // the headers' values
	idle  func()         // closes idle connections
	ended chan struct{}  // closed when the processor is done with it
	once  sync.Once      // closes ended

	mu   sync.Mutex
	told time.Time // when the log was last told of failures; zero while exports work; guarded by mu
	lost int       // spans that were not exported since; guarded by mu
}

// ExportSpans implements sdk.SpanExporter. It returns nil whatever happens.
func (r *reporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && r.told.IsZero():
	case err == nil:
		r.log.Info("spans are exported again", "lost", r.lost)
		r.told, r.lost = time.Time{}, 0
	default:
		r.lost += len(spans)
		if now := time.Now(); now.Sub(r.told) >= tellAgain {
			r.told = now
			r.log.Warn("spans can't be exported, and are lost; requests are worked on all the same", "lost", r.lost,
				"error", r.known.Line(scrub.Unquoted(withoutURL(err)), maxMessage))
		}
	}
	return nil
}

// withoutURL returns what the network said.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// Shutdown implements sdk.SpanExporter. The processor calls it last.
func (r *reporter) Shutdown(ctx context.Context) error {
	defer r.once.Do(func() { close(r.ended) })
	defer r.idle()
	return r.SpanExporter.Shutdown(ctx)
}

// cut gives up what is under way, and waits until the processor has seen it.
func (r *reporter) cut(ctx context.Context) error {
	err := r.SpanExporter.Shutdown(ctx)
	select {
	case <-r.ended:
	case <-ctx.Done():
	}
	return err
}
