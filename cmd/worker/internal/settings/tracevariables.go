package settings

import (
	"time"
)

const longestExport = 10 * time.Minute

// traceVariables are the standard ones of OpenTelemetry, with its defaults. Those of traces alone beat
// those of all signals.
var traceVariables = []Variable{
	{"OTEL_SDK_DISABLED", Traces, "false", "export nothing, whatever else is set", sdkDisabled, nil},
	{"OTEL_TRACES_EXPORTER", Traces, "", "otlp or none (default: otlp where there is an endpoint)", oneOf(func(s *Settings) *string { return &s.Tracing.Exporter }, "", ExporterOTLP, ExporterNone), nil},
	{"OTEL_SERVICE_NAME", Traces, "flow-worker", "the service's name in traces", text(func(s *Settings) *string { return &s.Tracing.ServiceName }), nil},
	{"OTEL_RESOURCE_ATTRIBUTES", Traces, "", "more about the service, as name=value,name=value", pairs(func(s *Settings) *map[string]string { return &s.Tracing.ResourceAttributes }, validAttribute), nil},
	{"OTEL_TRACES_SAMPLER", Traces, "parentbased_always_on", "which traces are exported", oneOf(func(s *Settings) *string { return &s.Tracing.Sampler }, samplers...), nil},
	{"OTEL_TRACES_SAMPLER_ARG", Traces, "1", "share of the traces, 0 to 1, for the samplers by ratio", ratio(func(s *Settings) *float64 { return &s.Tracing.SamplerRatio }), nil},
	{"OTEL_PROPAGATORS", Traces, "tracecontext", "how traces go from service to service: W3C Trace Context only", propagators, nil},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", Traces, "", "OpenTelemetry collector, such as http://localhost:4318", collectorURL(func(s *Settings) *string { return &s.Tracing.General.Endpoint }), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Traces, "", "likewise, with the path, for traces alone", collectorURL(func(s *Settings) *string { return &s.Tracing.Traces.Endpoint }), nil},
	{"OTEL_EXPORTER_OTLP_PROTOCOL", Traces, "", "http/protobuf, the only one", text(func(s *Settings) *string { return &s.Tracing.General.Protocol }), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", Traces, "", "likewise, for traces alone", text(func(s *Settings) *string { return &s.Tracing.Traces.Protocol }), nil},
	{"OTEL_EXPORTER_OTLP_HEADERS", Traces, "", "headers for the collector, as name=value,name=value; better set in the environment", pairs(func(s *Settings) *map[string]string { return &s.Tracing.General.Headers }, validHeader), maskAll},
	{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", Traces, "", "likewise, for traces alone", pairs(func(s *Settings) *map[string]string { return &s.Tracing.Traces.Headers }, validHeader), maskAll},
	{"OTEL_EXPORTER_OTLP_COMPRESSION", Traces, "", "gzip or none", oneOf(func(s *Settings) *string { return &s.Tracing.General.Compression }, "", "gzip", "none"), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", Traces, "", "likewise, for traces alone", oneOf(func(s *Settings) *string { return &s.Tracing.Traces.Compression }, "", "gzip", "none"), nil},
	{"OTEL_EXPORTER_OTLP_TIMEOUT", Traces, "", "milliseconds for one call to the collector (default: 10000)", milliseconds(func(s *Settings) *time.Duration { return &s.Tracing.General.Timeout }, longestExport), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", Traces, "", "likewise, for traces alone", milliseconds(func(s *Settings) *time.Duration { return &s.Tracing.Traces.Timeout }, longestExport), nil},
	{"OTEL_EXPORTER_OTLP_CERTIFICATE", Traces, "", "PEM file with the authorities to trust", file(func(s *Settings) *string { return &s.Tracing.General.Certificate }), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", Traces, "", "likewise, for traces alone", file(func(s *Settings) *string { return &s.Tracing.Traces.Certificate }), nil},
	{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", Traces, "", "TLS client certificate", file(func(s *Settings) *string { return &s.Tracing.General.ClientCert }), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", Traces, "", "likewise, for traces alone", file(func(s *Settings) *string { return &s.Tracing.Traces.ClientCert }), nil},
	{"OTEL_EXPORTER_OTLP_CLIENT_KEY", Traces, "", "key of the TLS client certificate", file(func(s *Settings) *string { return &s.Tracing.General.ClientKey }), nil},
	{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", Traces, "", "likewise, for traces alone", file(func(s *Settings) *string { return &s.Tracing.Traces.ClientKey }), nil},
	{"OTEL_BSP_MAX_QUEUE_SIZE", Traces, "2048", "spans that wait for their export; more are dropped", integer(func(s *Settings) *int { return &s.Tracing.QueueSize }, 1, 1<<20), nil},
	{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", Traces, "512", "spans in one export", integer(func(s *Settings) *int { return &s.Tracing.BatchSize }, 1, 1<<20), nil},
	{"OTEL_BSP_SCHEDULE_DELAY", Traces, "5000", "milliseconds between two exports", milliseconds(func(s *Settings) *time.Duration { return &s.Tracing.ScheduleDelay }, longestExport), nil},
	{"OTEL_BSP_EXPORT_TIMEOUT", Traces, "30000", "milliseconds for one export with its repeats", milliseconds(func(s *Settings) *time.Duration { return &s.Tracing.ExportTimeout }, longestExport), nil},
}
