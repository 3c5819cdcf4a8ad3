package tracing

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/flow-worker/flow-worker/internal/provision"
)

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
