package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/tracing/tracingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
	callers      = "00-" + callersTrace + "-" + callersSpan + "-01"
)

// kit is a Tracer and the collector that it exports to.
type kit struct {
	*Tracer
	t         *testing.T
	ctx       context.Context
	collector *tracingtest.Collector
	log       lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newKit(t *testing.T, change ...func(*Config)) *kit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	k := &kit{t: t, ctx: ctx, collector: tracingtest.Start()}
	t.Cleanup(k.collector.Close)
	cfg := Config{
		Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": k.collector.URL(), "OTEL_BSP_SCHEDULE_DELAY": "10"},
		Log: slog.New(slog.NewTextHandler(&k.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if k.Tracer, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Shutdown(context.WithoutCancel(ctx)) })
	return k
}

// spans ends the export and returns what came.
func (k *kit) spans() []tracingtest.Span {
	k.t.Helper()
	if err := k.Shutdown(k.ctx); err != nil {
		k.t.Fatal(err)
	}
	return k.collector.Spans()
}

// only returns the one span of a name.
func only(t *testing.T, spans []tracingtest.Span, name string) (found tracingtest.Span) {
	t.Helper()
	n := 0
	for _, s := range spans {
		if s.Name == name {
			found = s
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d spans %q in %+v", n, name, spans)
	}
	return found
}

func delivery(parent string) *provision.Delivery {
	return &provision.Delivery{
		Request: provision.Request{Key: provision.Key{Tenant: "acme", Source: "/s", ID: "i"}, Trace: provision.Trace{Parent: parent}},
		Seq:     7, Delivered: 1,
	}
}
