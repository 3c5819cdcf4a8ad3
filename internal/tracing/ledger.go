package tracing

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Ledger returns a ledger that makes a span of every call to l that is a part of some work.
func (t *Tracer) Ledger(l provision.Ledger) provision.Ledger { return &ledger{l, t.tracer} }

type ledger struct {
	next   provision.Ledger
	tracer trace.Tracer
}

// Load implements provision.Ledger.
func (l *ledger) Load(ctx context.Context, key provision.Key) (provision.Record, uint64, error) {
	ctx, span := l.start(ctx, "ledger load")
	rec, rev, err := l.next.Load(ctx, key)
	if span != nil {
		why := kindOf(err)
		if errors.Is(err, provision.ErrNoRecord) {
			why = ""
		}
		span.SetAttributes(keyState.String(string(rec.State)))
		end(span, why)
	}
	return rec, rev, err
}

// Store implements provision.Ledger.
func (l *ledger) Store(ctx context.Context, key provision.Key, rec provision.Record, rev uint64) (uint64, error) {
	ctx, span := l.start(ctx, "ledger store")
	next, err := l.next.Store(ctx, key, rec, rev)
	if span != nil {
		span.SetAttributes(keyState.String(string(rec.State)), keyAttempt.Int(rec.Posts))
		end(span, kindOf(err))
	}
	return next, err
}

// start begins a span, or returns nil where there is no work that it could be a part of.
func (l *ledger) start(ctx context.Context, name string) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil
	}
	return l.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
}
