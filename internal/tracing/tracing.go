// Package tracing exports what the worker does as OpenTelemetry spans, by OTLP over HTTP.
//
// The work on one delivery is one span, a part of the trace that its message came with. Below it are the
// calls to the ledger, to Vault, to IMS and to the Flow Service, and the messages that are published. A
// message without a trace context begins a trace whose id depends on the request alone: all deliveries of
// it, by whatever worker, are found in one trace.
//
// No span ever holds a body, a header, a query or an error's text: of what went wrong it has a word from a
// closed set.
package tracing

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelsdk "go.opentelemetry.io/otel/sdk"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Config says where spans go and which.
type Config struct {
	// Env holds what OpenTelemetry's SDK and its OTLP exporter are to read, and they read nothing else:
	// name → value of OTEL_ variables. What it can't read, the SDK prints to stderr, with its value, so leave that out.
	Env map[string]string

	Version  string       // of this program; empty means unknown
	Instance string       // the name of this process; empty means unknown
	Log      *slog.Logger // gets a line when exports begin to fail, and when they work again; nil means no log
}

const scope = "github.com/flow-worker/flow-worker"

// maxValue is how much of an attribute's text is exported, in characters.
const maxValue = 512

// Tracer is a provision.Tracer that exports. Make one with New, end it with Shutdown. Its methods are safe
// for concurrent use and never wait for the export.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sampling trace.Tracer // samples as tracer does, and exports nothing
	exporter *reporter
}

var _ provision.Tracer = (*Tracer)(nil)

// New returns a Tracer. It fails on a Config that can't work; nothing is sent yet, so a collector that is
// away is no obstacle, now or later.
func New(cfg Config) (t *Tracer, err error) {
	err = withEnvironment(cfg.Env, func() error {
		exporter, err := newExporter(cfg)
		if err != nil {
			return err
		}
		limits := sdk.NewSpanLimits()
		if at := limits.AttributeValueLengthLimit; at < 0 || at > maxValue {
			limits.AttributeValueLengthLimit = maxValue
		}
		provider := sdk.NewTracerProvider(
			sdk.WithSpanProcessor(sdk.NewBatchSpanProcessor(exporter)),
			sdk.WithIDGenerator(ids{}), sdk.WithRawSpanLimits(limits), sdk.WithResource(describe(cfg)),
		)
		t = &Tracer{
			provider: provider, tracer: provider.Tracer(scope, trace.WithInstrumentationVersion(cfg.Version)),
			sampling: sdk.NewTracerProvider(sdk.WithIDGenerator(ids{})).Tracer(scope), exporter: exporter,
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return t, nil
}

// describe returns what is said of this process with all spans. What the environment says beats the rest.
func describe(cfg Config) *resource.Resource {
	attrs := []attribute.KeyValue{
		semconv.ServiceName("flow-worker"),
		semconv.TelemetrySDKName("opentelemetry"), semconv.TelemetrySDKLanguageGo, semconv.TelemetrySDKVersion(otelsdk.Version()),
	}
	if cfg.Version != "" {
		attrs = append(attrs, semconv.ServiceVersion(cfg.Version))
	}
	if cfg.Instance != "" {
		attrs = append(attrs, semconv.ServiceInstanceID(cfg.Instance))
	}
	own := resource.NewWithAttributes(semconv.SchemaURL, attrs...)
	said, err := resource.New(context.Background(), resource.WithFromEnv())
	if err != nil {
		return own
	}
	all, err := resource.Merge(own, said)
	if err != nil {
		return own
	}
	return all
}

// Shutdown exports what is left, until ctx ends: then it gives up what is under way and returns ctx's
// error. Spans that end later are dropped.
func (t *Tracer) Shutdown(ctx context.Context) error {
	err := t.provider.Shutdown(ctx)
	if err == nil {
		return nil
	}
	cut, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(err, t.exporter.cut(cut))
}

// root is where the trace of a message begins that came without a trace context. Whoever gets a delivery
// of the message finds the same.
type root struct {
	trace trace.TraceID
	span  trace.SpanID
}

// rootOf returns where the trace of d's message begins: the trace is the request's, the span the message's.
func rootOf(d *provision.Delivery) (r root) {
	r.trace, _ = trace.TraceIDFromHex(d.Request.Key.TraceID()) // 32 hex digits
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("span"+d.Request.Key.String()+" "), d.Seq))
	copy(r.span[:], sum[:])
	return r
}

type rootKey struct{}

// ids are random, but for the root of a trace whose context says which ones it has.
type ids struct{}

var _ sdk.IDGenerator = ids{}

// NewIDs implements sdk.IDGenerator.
func (i ids) NewIDs(ctx context.Context) (id trace.TraceID, span trace.SpanID) {
	if r, ok := ctx.Value(rootKey{}).(root); ok {
		return r.trace, r.span
	}
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, i.NewSpanID(ctx, id)
}

// NewSpanID implements sdk.IDGenerator.
func (ids) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
