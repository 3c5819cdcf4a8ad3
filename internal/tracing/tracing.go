package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Config says where spans go and which. Endpoint must be set.
type Config struct {
	Endpoint   string            // http or https URL that batches are posted to, with the path
	Headers    map[string]string // sent along; their values are taken for secrets
	Gzip       bool              // compress
	Timeout    time.Duration     // of one POST; 0 means 10 s
	CAFile     string            // PEM file with the authorities to trust; empty means the system's
	ClientCert string            // PEM file with the TLS client certificate; needs ClientKey
	ClientKey  string            // PEM file with its key

	Service    string            // the service's name; empty means "flow-worker"
	Version    string            // of this program; empty means unknown
	Instance   string            // the name of this process; empty means unknown
	Attributes map[string]string // more about the service; a service.name in here counts only where Service is empty

	Sampler string  // as OTEL_TRACES_SAMPLER has it; empty means "parentbased_always_on"
	Ratio   float64 // for the samplers by ratio

	QueueSize     int           // spans that wait for their export, more are dropped; 0 means 2048
	BatchSize     int           // spans in one export; 0 means 512
	Delay         time.Duration // between two exports; 0 means 5 s
	ExportTimeout time.Duration // of one export with its repeats; 0 means 30 s

	Log *slog.Logger // is told when exports begin to fail, and when they work again; nil means no log
}

const scope = "github.com/flow-worker/flow-worker"

// maxValue is how much of an attribute's text is exported, in characters.
const maxValue = 512

// Tracer is a provision.Tracer that exports. Make one with New, end it with Shutdown. Its methods are safe
// for concurrent use and never wait for the export.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sampler  sdk.Sampler
	exporter *reporter
}

var _ provision.Tracer = (*Tracer)(nil)

// New returns a Tracer. It fails on a Config that can't work; nothing is sent yet, so a collector that is
// away is no obstacle, now or later.
func New(cfg Config) (*Tracer, error) {
	sampler, err := samplerOf(cfg.Sampler, cfg.Ratio)
	if err != nil {
		return nil, err
	}
	exporter, err := newExporter(cfg)
	if err != nil {
		return nil, err
	}
	limits := sdk.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxValue
	provider := sdk.NewTracerProvider(
		sdk.WithSpanProcessor(sdk.NewBatchSpanProcessor(exporter, batching(cfg)...)),
		sdk.WithSampler(sampler), sdk.WithIDGenerator(ids{}), sdk.WithRawSpanLimits(limits), sdk.WithResource(describe(cfg)),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer(scope, trace.WithInstrumentationVersion(cfg.Version)), sampler: sampler, exporter: exporter}, nil
}

func batching(cfg Config) (opts []sdk.BatchSpanProcessorOption) {
	if cfg.QueueSize > 0 {
		opts = append(opts, sdk.WithMaxQueueSize(cfg.QueueSize))
	}
	if cfg.BatchSize > 0 {
		opts = append(opts, sdk.WithMaxExportBatchSize(cfg.BatchSize))
	}
	if cfg.Delay > 0 {
		opts = append(opts, sdk.WithBatchTimeout(cfg.Delay))
	}
	if cfg.ExportTimeout > 0 {
		opts = append(opts, sdk.WithExportTimeout(cfg.ExportTimeout))
	}
	return opts
}

// describe returns what is said of this process with all spans.
func describe(cfg Config) *resource.Resource {
	var attrs []attribute.KeyValue
	for name, value := range cfg.Attributes {
		attrs = append(attrs, attribute.String(name, value))
	}
	if cfg.Attributes["service.name"] == "" && cfg.Service == "" {
		cfg.Service = "flow-worker"
	}
	own := []struct {
		value string
		attr  func(string) attribute.KeyValue
	}{{cfg.Service, semconv.ServiceName}, {cfg.Version, semconv.ServiceVersion}, {cfg.Instance, semconv.ServiceInstanceID}}
	for _, o := range own {
		if o.value != "" {
			attrs = append(attrs, o.attr(o.value)) // the last one of a name counts
		}
	}
	attrs = append(attrs, semconv.TelemetrySDKName("opentelemetry"), semconv.TelemetrySDKLanguageGo, semconv.TelemetrySDKVersion(sdkVersion()))
	return resource.NewWithAttributes(semconv.SchemaURL, attrs...)
}

// samplerOf returns the sampler that OpenTelemetry calls by that name.
func samplerOf(name string, ratio float64) (sdk.Sampler, error) {
	switch name {
	case "", "parentbased_always_on":
		return sdk.ParentBased(sdk.AlwaysSample()), nil
	case "always_on":
		return sdk.AlwaysSample(), nil
	case "always_off":
		return sdk.NeverSample(), nil
	case "parentbased_always_off":
		return sdk.ParentBased(sdk.NeverSample()), nil
	case "traceidratio":
		return sdk.TraceIDRatioBased(ratio), nil
	case "parentbased_traceidratio":
		return sdk.ParentBased(sdk.TraceIDRatioBased(ratio)), nil
	}
	return nil, fmt.Errorf("tracing: there is no sampler %.40q", name)
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
