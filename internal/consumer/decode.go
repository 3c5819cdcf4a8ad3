package consumer

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// decode reads one message. A panic of the codec is a bug, and would come again with every delivery: it
// is logged and makes the message's own provision.ReasonInternal. A nil log means no log.
func decode(codec Codec, log *slog.Logger, tenant string, headers map[string][]string, body []byte, meta event.Meta) (d provision.Delivery) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		id := rand.Text()[:12]
		d = event.Unread(tenant, headers, body, meta, provision.Fail(provision.ReasonInternal,
			"a bug in flow-worker kept it from reading this request; see the worker's log, log_id "+id))
		if log != nil {
			log.LogAttrs(context.Background(), slog.LevelError, "panic while reading a message", append(d.Errand(0).Attrs(), panicked(id, p)...)...)
		}
	}()
	return codec.Decode(tenant, headers, body, meta)
}

// panicked returns what the log says of a panic.
func panicked(id string, p any) []slog.Attr {
	return []slog.Attr{slog.String("log_id", id), slog.String("panic", fmt.Sprintf("%.200v", p)), slog.String("stack", string(debug.Stack()))}
}

// unread reports whether the codec panicked over the message: then nothing of it is known.
func unread(d provision.Delivery) bool {
	return d.Invalid != nil && d.Invalid.Reason == provision.ReasonInternal
}

// write returns what render makes, or false where that panics.
func (c *Consumer) write(j *job, render func() event.Message) (m event.Message, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			c.Log.LogAttrs(context.Background(), slog.LevelError, "panic while writing a dead letter; less of the message is kept",
				append(j.delivery.Errand(0).Attrs(), panicked(rand.Text()[:12], p)...)...)
		}
	}()
	return render(), true
}
