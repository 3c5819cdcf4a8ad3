package app_test

import (
	"cmp"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
)

const (
	callersTrace  = "0af7651916cd43dd8448eb211c80319c"
	callersSpan   = "b7ad6b7169203331"
	callersParent = "00-" + callersTrace + "-" + callersSpan + "-01"
	callersState  = "vendor=value"
	processSpan   = "process connections.requests.{tenant}"
	postSpan      = "POST /connections"
)

// parent returns the traceparent by which a span's context is passed on.
func parent(s tracingtest.Span) string { return "00-" + s.Trace + "-" + s.ID + "-01" }

// From the message to the result it is one trace, with the caller's span at its top.
func TestOneTraceFromRequestToResult(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	stop := w.run(append(w.exporting(), "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")...)
	w.submit("acme", "one", traceData("one"), "traceparent", callersParent, "tracestate", callersState)
	res := w.results(1)["one"]
	stop() // what is left is exported on the way out
	spans := w.collector.Spans()
	top := byName(spans, processSpan)
	if len(top) != 1 || top[0].Parent != callersSpan || top[0].Kind != "CONSUMER" || top[0].TraceState != callersState || top[0].Failed {
		t.Fatalf("the work's spans: %+v", top)
	}
	for _, s := range spans {
		if s.Trace != callersTrace {
			t.Errorf("%s is of trace %s", s.Name, s.Trace)
		}
		if s.Name != processSpan && s.Parent != top[0].ID {
			t.Errorf("%s is not below the work but below %s", s.Name, s.Parent)
		}
		if s.Began < top[0].Began || s.Ended > top[0].Ended || s.Ended < s.Began {
			t.Errorf("%s is not within the work", s.Name)
		}
	}
	for name, want := range map[string]struct {
		n    int
		kind string
	}{"ledger store": {2, "CLIENT"}, "GET /v1/{mount}/{path}": {2, "CLIENT"}, "POST /ims/token/v3": {1, "CLIENT"}, postSpan: {1, "CLIENT"},
		"send connections.results.{tenant}.created": {1, "PRODUCER"}} {
		if got := byName(spans, name); len(got) != want.n || got[0].Kind != want.kind {
			t.Errorf("%s: %d spans, want %d of kind %s: %+v", name, len(got), want.n, want.kind, got)
		}
	}
	wantAttrs(t, top[0].Attrs, map[string]string{"messaging.system": "nats", "messaging.operation.type": "process", "messaging.destination.name": "connections.requests.acme",
		"messaging.message.id": "one", "flow_worker.tenant": "acme", "flow_worker.outcome": "created", "flow_worker.attempt": "1", "flow_worker.settled": "ack"})
	wantAttrs(t, byName(spans, postSpan)[0].Attrs, map[string]string{"http.request.method": "POST", "server.address": "127.0.0.1", "http.response.status_code": "201",
		"flow_worker.attempt": "1", "service.peer.name": "flow"})
	wantAttrs(t, top[0].Resource, map[string]string{"service.name": "flow-worker", "service.version": "1.2.3", "deployment.environment.name": "test"})
	if res.Trace.Parent != parent(top[0]) || res.Trace.State != callersState {
		t.Errorf("the result has %+v, want the work's span %s", res.Trace, parent(top[0]))
	}
	for call, name := range map[string]string{"POST /data/foundation/flowservice/connections": postSpan, "POST /ims/token/v3": "POST /ims/token/v3"} {
		if got, want := w.with(call), []string{parent(byName(spans, name)[0]) + " " + callersState}; !slices.Equal(got, want) {
			t.Errorf("%s was called with %q, want %q", call, got, want)
		}
	}
	for _, got := range w.with("GET /v1/secret/data/flow/tenants/") {
		if !strings.HasPrefix(got, "00-"+callersTrace) {
			t.Errorf("Vault was called with %q", got)
		}
	}
}

func wantAttrs(t *testing.T, got, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %q, want %q in %v", key, got[key], value, got)
		}
	}
}

// A request without a trace begins one, in which its later deliveries and its retry are found, too.
func TestRedeliveriesAndRetriesStayInTheTrace(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	w.emulator.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "throttled", Effect: flowtest.EffectStatus, Status: 429, Times: 1})
	w.emulator.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "throttled", Effect: flowtest.EffectStatus, Status: 429, Times: 1, RetryAfter: time.Second})
	w.emulator.AddFault(flowtest.Fault{Operation: flowtest.OpCreate, Name: "refused", Effect: flowtest.EffectStatus, Status: 400, Times: 1})
	stop := w.run(w.exporting()...)
	w.submit("acme", "throttled", traceData("throttled"))
	w.submit("acme", "refused", traceData("refused"))
	results := w.results(2)
	w.submit("acme", "refused", traceData("refused"), "Flow-Worker-Retry", "1", "Nats-Msg-Id", "again")
	retried := w.results(3)["refused"]
	w.submit("acme", "throttled", traceData("throttled"), "Nats-Msg-Id", "a repeat")
	_, err := w.collector.Await(w.ctx, func(c *tracingtest.Collector) bool { return len(byName(c.Spans(), processSpan)) >= 5 })
	check(t, err)
	stop()
	all := map[string][]tracingtest.Span{}
	for _, s := range byName(w.collector.Spans(), processSpan) {
		all[s.Attrs["flow_worker.request.id"]] = append(all[s.Attrs["flow_worker.request.id"]], s)
	}
	works := all["throttled"]
	slices.SortFunc(works, func(a, b tracingtest.Span) int { return cmp.Compare(a.Began, b.Began) })
	if len(works) != 3 || works[0].Parent != "" || works[1].Parent != works[0].ID || works[2].Parent != "" || works[2].ID == works[0].ID {
		t.Fatalf("the throttled request's deliveries and its repeat: %+v", works)
	}
	for id, works := range all {
		for _, s := range works {
			if s.Trace != works[0].Trace {
				t.Errorf("%s is in the traces %s and %s", id, works[0].Trace, s.Trace)
			}
		}
	}
	if all["throttled"][0].Trace == all["refused"][0].Trace {
		t.Error("two requests share a trace")
	}
	if got := results["throttled"].Trace.Parent; got != parent(works[1]) {
		t.Errorf("the result has %s, want the span that made the connection, %s", got, parent(works[1]))
	}
	if retried.Outcome != "created" || retried.Trace.ID() != results["refused"].Trace.ID() || retried.Trace.ID() == "" {
		t.Errorf("the retry's result is %+v, the first one's %+v", retried.Trace, results["refused"].Trace)
	}
	checkTries(t, byName(w.collector.Spans(), postSpan), all)
}

// checkTries wants each POST to say which it is.
func checkTries(t *testing.T, posts []tracingtest.Span, works map[string][]tracingtest.Span) {
	t.Helper()
	var got []string
	for _, s := range posts {
		got = append(got, fmt.Sprint(s.Attrs["http.response.status_code"], " attempt ", s.Attrs["flow_worker.attempt"], " resend ", s.Attrs["http.request.resend_count"],
			" error ", s.Attrs["error.type"], " ", s.Failed))
	}
	slices.Sort(got)
	want := []string{"201 attempt 1 resend  error  false", "201 attempt 3 resend  error  false", "400 attempt 1 resend  error 400 true",
		"429 attempt 1 resend  error 429 true", "429 attempt 2 resend 1 error 429 true"}
	if !slices.Equal(got, want) {
		t.Errorf("POSTs:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range works["refused"] {
		if failed := s.Attrs["flow_worker.outcome"] == "failed"; failed != s.Failed || failed && s.Attrs["flow_worker.reason"] != "flow_rejected" {
			t.Errorf("the refused request's span: %+v", s)
		}
	}
}

// Without OTEL variables nothing of OpenTelemetry runs, and the trace context is passed on as it came. Not
// parallel: it looks at all goroutines.
func TestNothingIsExportedUnasked(t *testing.T) {
	for name, more := range map[string][]string{
		"nothing set": nil, "a name alone": {"OTEL_SERVICE_NAME=x"}, "disabled": {"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=otlp"},
		"no exporter": {"OTEL_TRACES_EXPORTER=none"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTraceWorld(t)
			if more != nil && name != "a name alone" {
				more = append(more, w.exporting()...)
			}
			stop := w.run(more...)
			w.submit("acme", "traced", traceData("traced"), "traceparent", callersParent, "tracestate", callersState)
			w.submit("acme", "untraced", traceData("untraced"))
			results := w.results(2)
			var goroutines strings.Builder
			check(t, pprof.Lookup("goroutine").WriteTo(&goroutines, 2))
			if strings.Contains(goroutines.String(), "go.opentelemetry.io") {
				t.Errorf("a goroutine of OpenTelemetry runs:\n%s", goroutines.String())
			}
			stop()
			if n := w.collector.Calls(); n > 0 {
				t.Errorf("the collector was called %d times", n)
			}
			if got := results["traced"].Trace; got.Parent != callersParent || got.State != callersState {
				t.Errorf("the traced request's result has %+v", got)
			}
			if got := results["untraced"].Trace; got.Parent != "" {
				t.Errorf("the untraced request's result has %+v", got)
			}
			got := w.with("POST /data/foundation/flowservice/connections")
			slices.Sort(got)
			if want := []string{" ", callersParent + " " + callersState}; !slices.Equal(got, want) {
				t.Errorf("the Flow Service was called with %q, want %q", got, want)
			}
		})
	}
}

// What a platform sets for all its programs costs no span, where it can't be followed.
func TestForeignVariablesDoNotStopTheExport(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	stop := w.run(append(w.exporting(), "OTEL_PROPAGATORS=b3", "OTEL_EXPORTER_OTLP_TIMEOUT=10s", "OTEL_BSP_MAX_QUEUE_SIZE=-1", "OTEL_EXPORTER_OTLP_CERTIFICATE=/none",
		"OTEL_TRACES_SAMPLER=jaeger_remote", "OTEL_TRACES_SAMPLER_ARG=endpoint=http://x", "OTEL_EXPORTER_OTLP_HEADERS=garbage", "OTEL_RESOURCE_ATTRIBUTES=garbage", "OTEL_TRACES_EXPORTER=console,otlp",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_COMPRESSION=zstd", "OTEL_METRICS_EXPORTER=otlp", "OTEL_LOG_LEVEL=loud", "OTEL_SPAN_EVENT_COUNT_LIMIT=none")...)
	w.submit("acme", "x", traceData("x"))
	w.results(1)
	stop()
	if spans := byName(w.collector.Spans(), processSpan); len(spans) != 1 || spans[0].Resource["service.name"] != "flow-worker" {
		t.Errorf("%+v", spans)
	}
}

// With a sampler that takes none of the traces nothing is exported, and those who are called are told so.
func TestUnsampledTraces(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	stop := w.run(append(w.exporting(), "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0")...)
	w.submit("acme", "x", traceData("x"), "traceparent", callersParent)
	res := w.results(1)["x"]
	stop()
	if n := len(w.collector.Spans()); n > 0 {
		t.Errorf("%d spans", n)
	}
	if got := res.Trace.Parent; !strings.HasPrefix(got, "00-"+callersTrace+"-") || !strings.HasSuffix(got, "-00") {
		t.Errorf("the result has %q", got)
	}
}

// A collector that never answers holds up neither the work nor the end of the worker.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	w := newTraceWorld(t)
	w.collector.Hang()
	stop := w.run(append(w.exporting(), "OTEL_BSP_MAX_QUEUE_SIZE=4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1", "WORKER_SHUTDOWN_TIMEOUT=1s")...)
	const n = 50 // each has more spans than the queue takes
	for i := range n {
		w.submit("acme", fmt.Sprint("hang-", i), traceData("x"))
	}
	if got := w.results(n); len(got) != n {
		t.Errorf("%d results", len(got))
	}
	if _, err := w.collector.Await(w.ctx, func(c *tracingtest.Collector) bool { return c.Calls() > 0 }); err != nil {
		t.Fatal("nothing hangs")
	}
	stop() // the collector hangs on
	if len(w.collector.Spans()) > 0 {
		t.Error("it did not hang")
	}
	told := slices.ContainsFunc(w.log.lines(t), func(line map[string]any) bool { return line["msg"] == "the last spans may not have been exported" })
	if !told {
		t.Error("the log says nothing of the spans that are lost")
	}
}

// The time of many requests does not depend on whether the collector answers.
func TestHangingCollectorDoesNotSlowWork(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	t.Parallel()
	w := newTraceWorld(t)
	took := func(prefix string, more ...string) time.Duration {
		stop := w.run(append(more, "WORKER_SHUTDOWN_TIMEOUT=1s")...)
		defer stop()
		began, before := time.Now(), len(w.collector.Spans())
		const n = 200
		for i := range n {
			w.submit("acme", fmt.Sprint(prefix, i), traceData("x"))
		}
		drained(w)
		t.Logf("%s: %v for %d requests, %d spans", prefix, time.Since(began), n, len(w.collector.Spans())-before)
		return time.Since(began)
	}
	took("warm-up")
	off := min(took("off"), took("off again"))
	on := min(took("on", w.exporting()...), took("on again", w.exporting()...))
	w.collector.Hang()
	hangs := min(took("hangs", w.exporting()...), took("hangs again", w.exporting()...))
	if hangs > 10*max(off, on) { // one export that is waited for takes more
		t.Errorf("with a collector that hangs it takes %v, without any %v, with a good one %v", hangs, off, on)
	}
}

// drained waits until no request is left.
func drained(w *traceWorld) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := w.js.Stream(w.ctx, "CONNECTION_REQUESTS")
		check(w.t, err)
		if s.CachedInfo().State.Msgs == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%d requests are left", s.CachedInfo().State.Msgs)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
