package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/flow-worker/flow-worker/internal/scrub"
)

const (
	maxResponse = 64 << 10    // of a collector's answer, in bytes
	logEvery    = time.Minute // between log lines while exports fail
	maxMessage  = 300         // of a collector's words in the log, in characters
)

// environment guards the process's environment while it holds what an exporter is to read.
var environment sync.Mutex

// withEnvironment calls f while the process has exactly the OTEL_ variables of env: the SDK and the exporter read
// theirs from nowhere else, once, when they are made.
func withEnvironment(env map[string]string, f func() error) error {
	environment.Lock()
	defer environment.Unlock()
	for _, pair := range os.Environ() {
		if name, value, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			_ = os.Unsetenv(name)
			defer func() { _ = os.Setenv(name, value) }()
		}
	}
	for name, value := range env {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer func() { _ = os.Unsetenv(name) }()
	}
	return f()
}

var errRedirect = errors.New("the collector redirects, which is not followed")

// newExporter returns an exporter that speaks OTLP over HTTP, as the environment says. It follows no redirect: the
// headers go to the collector alone.
func newExporter(cfg Config) (*reporter, error) {
	proxy := func(r *http.Request) (*url.URL, error) {
		if r.Response != nil { // it would follow this one
			return nil, errRedirect
		}
		return http.ProxyFromEnvironment(r)
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithProxy(proxy), otlptracehttp.WithMaxResponseSize(maxResponse))
	if err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &reporter{SpanExporter: exporter, log: log, known: scrub.New(headerValues(cfg.Env)...), ended: make(chan struct{})}, nil
}

// headerValues returns what must not be logged.
func headerValues(env map[string]string) (values []string) {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"} {
		for pair := range strings.SplitSeq(env[name], ",") {
			_, value, _ := strings.Cut(pair, "=")
			if plain, err := url.PathUnescape(value); err == nil && strings.TrimSpace(plain) != "" {
				values = append(values, strings.TrimSpace(plain))
			}
		}
	}
	return values
}

// reporter logs exports that fail; the SDK would write them to stderr.
type reporter struct {
	sdk.SpanExporter
	log   *slog.Logger
	known scrub.Scrubber // the headers' values
	ended chan struct{}  // closed when the processor is done with it
	once  sync.Once      // closes ended

	mu     sync.Mutex
	logged time.Time // when failures were last logged; zero while exports work; guarded by mu
	lost   int       // spans that were not exported since; guarded by mu
}

// ExportSpans implements sdk.SpanExporter. It returns nil whatever happens.
func (r *reporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && r.logged.IsZero():
	case err == nil:
		r.log.Info("spans are exported again", "lost", r.lost)
		r.logged, r.lost = time.Time{}, 0
	default:
		r.lost += len(spans)
		if now := time.Now(); now.Sub(r.logged) >= logEvery {
			r.logged = now
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
