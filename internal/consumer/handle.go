package consumer

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// panicDelay is how long a message rests whose handling panicked out here.
const panicDelay = time.Minute

// maxIdle is how many goroutines at most wait for the next message instead of ending: their stacks have the size that
// the work takes, which costs a new one about a twentieth of it.
const maxIdle = 128

// begin works on a message in flight in a goroutine of its own.
func (c *Consumer) begin(j *job) {
	c.Metrics.inFlight.Inc()
	select {
	case c.next <- j:
	default:
		c.handlers.Go(func() {
			for more := true; more; j, more = c.awaitNext() {
				c.handleSafely(j)
			}
		})
	}
}

// awaitNext returns the next message to work on; false when there is none for this goroutine.
func (c *Consumer) awaitNext() (j *job, more bool) {
	defer c.idle.Add(-1)
	if c.idle.Add(1) > maxIdle {
		return nil, false
	}
	select {
	case j = <-c.next:
		return j, true
	case <-c.ended:
		return nil, false
	}
}

// handleSafely handles a message whatever panics. The hub and decode turn their panics into the request's failure; what
// arrives here is a bug of this package or of who watches it, and must not end the process.
func (c *Consumer) handleSafely(j *job) {
	defer func() {
		if p := recover(); p != nil {
			c.Log.LogAttrs(context.Background(), slog.LevelError, "panic while handling a message", append(j.delivery.Purpose(0).Attrs(), panicked(p)...)...)
			c.count(c.nak(j, panicDelay))
		}
		c.Metrics.inFlight.Dec()
		c.inFlight.remove(j)
	}()
	c.handle(j)
}

// handle sees one message through: it reads it, has the hub work on it, and settles it.
func (c *Consumer) handle(j *job) {
	if j.msg != nil {
		var err error
		if j.delivery, err = c.read(j.msg, j.tenant); err != nil {
			c.Log.Error("this is no JetStream message; nothing can be done with it", "subject", j.msg.Subject(), "error", err)
			c.count(verdict{settled: settledAbandoned})
			return
		}
	}
	d := j.delivery
	if !provision.ValidTenant(j.tenant) {
		c.settleInvalid(j, d)
		return
	}
	span := c.Tracer.Begin(&d)
	if message, work := span.Traces(); message.Parent != "" {
		d.Request.Trace, d.Work = message, work
		j.work, j.settle = span.Attach(j.work), span.Attach(j.settle)
	}
	c.OnStart(d)
	out := c.Handle(j.work, d)
	v := c.settle(j, d, out)
	c.report(d, out, v)
	span.End(out, v.settled, v.err)
	c.OnSettled(d, out)
}

// read decodes a message that was delivered. Its error is that it comes from no stream.
func (c *Consumer) read(msg jetstream.Msg, tenant string) (provision.Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return provision.Delivery{}, err
	}
	return decode(c.Codec, c.Log, tenant, msg.Headers(), msg.Data(), event.Meta{
		Seq: meta.Sequence.Stream, Timestamp: meta.Timestamp, Delivered: meta.NumDelivered,
	}), nil
}

// tenantOf returns what stands in the tenant's place in a request's subject. Of a subject outside those
// of requests, which a stream that somebody else configured may hold, it returns what is no tenant.
func tenantOf(subject string) string {
	if token, ok := strings.CutPrefix(subject, subjectRequests); ok {
		return token
	}
	return "/" + subject
}

// decode reads one message. A panic of the codec is a bug, and would come again with every delivery: it
// is logged and makes the message's own provision.ReasonInternal. A nil log means no log.
func decode(codec Codec, log *slog.Logger, tenant string, headers map[string][]string, body []byte, meta event.Meta) (d provision.Delivery) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		attrs := panicked(p)
		d = event.Unread(tenant, headers, body, meta, provision.Fail(provision.ReasonInternal,
			"a bug in flow-worker kept it from reading this request; see the worker's log, log_id "+attrs[0].Value.String()))
		if log != nil {
			log.LogAttrs(context.Background(), slog.LevelError, "panic while reading a message", append(d.Purpose(0).Attrs(), attrs...)...)
		}
	}()
	return codec.Decode(tenant, headers, body, meta)
}

// panicked returns what the log says of a panic, an id first.
func panicked(p any) []slog.Attr {
	return []slog.Attr{slog.String("log_id", rand.Text()[:12]), slog.String("panic", fmt.Sprintf("%.200v", p)), slog.String("stack", string(debug.Stack()))}
}

// unread reports whether the codec panicked over the message: then nothing of it is known.
func unread(d provision.Delivery) bool {
	return d.Invalid != nil && d.Invalid.Reason == provision.ReasonInternal
}

// count counts how a delivery was settled; what was read directly is none.
func (c *Consumer) count(v verdict) {
	if v.settled != settledDirect {
		c.Metrics.deliveries.WithLabelValues(v.settled).Inc()
	}
}

// report counts and logs one settled message. It never logs the body. Each request that has its outcome is
// logged once at level info; what goes back, and what was published before, is for those who look closer.
func (c *Consumer) report(d provision.Delivery, out provision.Outcome, v verdict) {
	c.count(v)
	took := time.Since(d.EnteredAt)
	concluded := out.Result != nil && !out.Silent && (v.settled == settledAck || v.settled == settledDirect && v.err == nil)
	if concluded {
		c.Metrics.concluded(d, out, took)
	}
	level, message := slog.LevelDebug, "message settled"
	switch {
	case v.err != nil:
		level = slog.LevelError
	case concluded && outcomeOf(out) != outcomeDuplicate:
		level, message = slog.LevelInfo, "request finished"
	}
	ctx := context.Background()
	if !c.Log.Enabled(ctx, level) {
		return
	}
	attrs := append(d.Purpose(out.Attempts).Attrs(), slog.String("settled", v.settled), slog.Float64("age_seconds", took.Seconds()))
	if out.Result != nil {
		attrs = append(attrs, slog.String("outcome", outcomeOf(out)))
		if f := out.Result.Error; f != nil {
			attrs = append(attrs, slog.String("reason", string(f.Reason)))
		}
	} else {
		attrs = append(attrs, slog.String("why", out.Why))
	}
	if v.settled == settledNak {
		attrs = append(attrs, slog.Float64("delay_seconds", v.delay.Seconds()))
	}
	if v.err != nil {
		attrs = append(attrs, slog.Any("error", v.err))
	}
	c.Log.LogAttrs(ctx, level, message, attrs...) //nolint:sloglint // one of two constants
}
