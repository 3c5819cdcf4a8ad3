package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	// delayMin is the shortest rest of a message that goes back, so that it can't spin.
	delayMin = 100 * time.Millisecond
	// untoldDelay is how long a message rests whose outcome could not be published: the ledger has
	// it, and the next delivery tells it.
	untoldDelay = 30 * time.Second
)

// settle is the one place that acts on an outcome:
//
//	result, failed   dead letter confirmed, result confirmed, ack
//	result, created  result confirmed, ack
//	silent           ack
//	no result        nak with the outcome's delay
//
// What can't be confirmed sends the message back, to be told by a later delivery. For a message that was read
// directly there is neither ack nor nak: that its outcome is told is recorded, and what has no outcome yet rests.
func (c *Consumer) settle(j *job, d provision.Delivery, out provision.Outcome) verdict {
	switch {
	case out.Silent && d.Direct:
		c.rest(j, othersRest)
		return verdict{settled: settledDirect}
	case out.Silent:
		return c.ack(j)
	case out.Result == nil:
		return c.nak(j, out.Delay)
	}
	if err := c.tell(j, d, out); err != nil {
		v := c.nak(j, untoldDelay)
		v.err = fmt.Errorf("the outcome could not be told and is told by a later delivery: %w", err)
		return v
	}
	if out.Told != nil {
		out.Told(j.settle)
	}
	return c.ack(j)
}

func (c *Consumer) tell(j *job, d provision.Delivery, out provision.Outcome) error {
	res := *out.Result
	if res.Outcome == provision.OutcomeFailed {
		if err := c.publishDeadLetter(j, letterOf(j, d, out), unread(d)); err != nil {
			return err
		}
	}
	return c.publishResult(j.settle, res)
}

func letterOf(j *job, d provision.Delivery, out provision.Outcome) event.Letter {
	res := *out.Result
	l := event.Letter{
		Headers: j.headers, Body: j.body,
		Key: d.Request.Key, Retry: d.Request.Retry, Fingerprint: d.Request.Fingerprint,
		Salt: d.EventSalt, Detached: d.Detached || out.Detached, FailedAt: res.CompletedAt,
	}
	if res.Error != nil {
		l.Reason = res.Error.Reason
	}
	return l
}

// settleInvalid ends a message whose subject names no tenant. There is nobody to tell a result to.
func (c *Consumer) settleInvalid(j *job, d provision.Delivery) {
	l := letterOf(j, d, provision.Outcome{Result: &provision.Result{CompletedAt: time.Now()}})
	l.Reason, l.Detached = provision.ReasonInvalidRequest, true
	v := verdict{settled: settledTerm, err: errors.New("the subject's last token is no tenant; want ^[a-z0-9][a-z0-9_-]{0,62}$")}
	if err := c.publishDeadLetter(j, l, unread(d)); err != nil {
		back := c.nak(j, untoldDelay)
		back.err = errors.Join(v.err, err)
		v = back
	} else if err := j.msg.TermWithReason("no tenant"); err != nil {
		v = verdict{settled: settledAbandoned, err: errors.Join(v.err, err)}
	}
	c.report(d, provision.Outcome{Why: "no tenant"}, v)
}

// nak gives the message back to rest for d, within bounds and with a tenth of jitter.
func (c *Consumer) nak(j *job, d time.Duration) verdict {
	d = max(d, delayMin)
	if j.msg == nil {
		c.rest(j, d)
		return verdict{settled: settledDirect, delay: d}
	}
	d = min(d+time.Duration(rand.Float64()*float64(d)/10), max(c.DelayMax, delayMin))
	if err := j.msg.NakWithDelay(d); err != nil {
		return verdict{settled: settledAbandoned}
	}
	return verdict{settled: settledNak, delay: d}
}

// ack acknowledges the message and waits for the broker to confirm it.
func (c *Consumer) ack(j *job) verdict {
	if j.msg == nil {
		c.rest(j, tillDelivered)
		return verdict{settled: settledDirect}
	}
	err := c.confirm(j.settle, func(ctx context.Context) error {
		err := j.msg.DoubleAck(ctx)
		c.wrote(ConsumerName, err)
		return err
	})
	if err != nil {
		return verdict{settled: settledAbandoned, err: fmt.Errorf("the acknowledgement is not confirmed: %w", err)}
	}
	return verdict{settled: settledAck}
}
