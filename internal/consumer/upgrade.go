package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// streamFault returns what is wrong with a stream that no upgrade can mend.
func streamFault(have, want jetstream.StreamConfig) error {
	const remedy = "move its messages elsewhere, delete it and run \"worker init\""
	switch {
	case have.Retention != want.Retention:
		return fmt.Errorf("its retention is %v and can't be changed to %v; %s", have.Retention, want.Retention, remedy)
	case have.Storage != want.Storage:
		return fmt.Errorf("it is kept in memory and would be lost with its server; %s", remedy)
	case have.Sealed:
		return errors.New("it is sealed and takes no messages; " + remedy)
	case have.Mirror != nil:
		return errors.New("it is a mirror and takes no messages; " + remedy)
	}
	return nil
}

// raiseStream returns have with everything raised to what want asks for at least.
func raiseStream(have, want jetstream.StreamConfig) (jetstream.StreamConfig, Change) {
	c := Change{Name: have.Name}
	out := have
	if subjects := unite(have.Subjects, want.Subjects); !slices.Equal(subjects, have.Subjects) {
		c.changed("subjects", have.Subjects, subjects)
		out.Subjects = subjects
	}
	out.Replicas = c.atLeast("replicas", have.Replicas, want.Replicas)
	out.MaxAge = c.age(have.MaxAge, want.MaxAge)
	switch {
	case have.Duplicates < want.Duplicates:
		c.changed("dedupe window", have.Duplicates, want.Duplicates)
		out.Duplicates = want.Duplicates
	case have.Duplicates > want.Duplicates && have.Retention == jetstream.WorkQueuePolicy:
		c.kept("dedupe window (one tenant's message id can swallow another's)", have.Duplicates)
	case have.Duplicates > want.Duplicates:
		c.kept("dedupe window", have.Duplicates)
	}
	if have.NoAck { // else nothing ever confirms that a message is stored
		c.changed("no_ack", true, false)
		out.NoAck = false
	}
	if want.MaxBytes > 0 && have.MaxBytes > 0 && have.MaxBytes < want.MaxBytes {
		c.changed("max bytes", have.MaxBytes, want.MaxBytes)
		out.MaxBytes = want.MaxBytes
	}
	c.keptLimits(have, want)
	return out, c
}

// unite returns have with those of want that it doesn't cover, and without those that these cover.
func unite(have, want []string) []string {
	out := slices.Clone(have)
	for _, w := range want {
		if slices.ContainsFunc(out, func(h string) bool { return covers(h, w) }) {
			continue
		}
		out = slices.DeleteFunc(out, func(h string) bool { return covers(w, h) })
		out = append(out, w)
	}
	return out
}

// covers reports whether every subject that pattern p matches is matched by pattern by.
func covers(by, p string) bool {
	tokens, pt := strings.Split(by, "."), strings.Split(p, ".")
	for i, t := range tokens {
		switch {
		case t == ">":
			return len(pt) > i
		case i >= len(pt) || pt[i] == ">":
			return false
		case t != "*" && t != pt[i]:
			return false
		}
	}
	return len(tokens) == len(pt)
}

func (c *Change) changed(what string, from, to any) {
	c.Changed = append(c.Changed, fmt.Sprintf("%s %v → %v", what, from, to))
}

func (c *Change) kept(what string, value any) {
	c.Kept = append(c.Kept, fmt.Sprintf("%s %v", what, value))
}

func (c *Change) atLeast(what string, have, want int) int {
	switch {
	case have < want:
		c.changed(what, have, want)
	case have > want:
		c.kept(what, have)
	}
	return max(have, want)
}

// age compares ages of which 0 is the greatest. A queue whose requests expire was made so by
// somebody: that is kept, and said.
func (c *Change) age(have, want time.Duration) time.Duration {
	switch {
	case have == want:
	case have == 0 || want > 0 && have > want:
		c.kept("max age (0 means for ever)", have)
	case want == 0:
		c.kept("max age (requests that wait longer are lost)", have)
	default:
		c.changed("max age", have, want)
		return want
	}
	return have
}

// keptLimits names the limits that somebody set and we never would.
func (c *Change) keptLimits(have, want jetstream.StreamConfig) {
	loss := ""
	if have.Retention == jetstream.WorkQueuePolicy && have.Discard != jetstream.DiscardNew {
		loss = " (the oldest requests beyond it are lost, for its discard policy is old)"
	}
	if have.MaxBytes > 0 && (have.MaxBytes > want.MaxBytes || loss != "") {
		c.kept("max bytes"+loss, have.MaxBytes)
	}
	for _, l := range []struct {
		name  string
		value int64
	}{
		{"max messages" + loss, have.MaxMsgs},
		{"max messages per subject" + loss, have.MaxMsgsPerSubject},
		{"max message size", int64(have.MaxMsgSize)},
	} {
		if l.value > 0 {
			c.kept(l.name, l.value)
		}
	}
}

// consumerFault returns what is wrong with a consumer that no upgrade can mend.
func consumerFault(have jetstream.ConsumerConfig) error {
	const remedy = "; delete it and run \"worker init\": no request is lost by that, some may be delivered again"
	switch {
	case have.AckPolicy != jetstream.AckExplicitPolicy:
		return fmt.Errorf("its ack policy is %v, not explicit%s", have.AckPolicy, remedy)
	case have.HeadersOnly:
		return errors.New("it delivers headers only" + remedy)
	case have.DeliverPolicy != jetstream.DeliverAllPolicy:
		return fmt.Errorf("it delivers not all messages but %v%s", have.DeliverPolicy, remedy)
	case have.PriorityPolicy != jetstream.PriorityPolicyNone:
		return errors.New("it has a priority policy, which the worker does not speak" + remedy)
	}
	return nil
}

// raiseConsumer returns have with everything as want asks for at least. A pause is not its business:
// the server keeps it when an update doesn't mention it.
func raiseConsumer(have, want jetstream.ConsumerConfig) (jetstream.ConsumerConfig, Change) {
	c := Change{Name: have.Name}
	out := have
	out.PauseUntil = nil
	switch {
	case have.AckWait < want.AckWait:
		c.changed("ack wait", have.AckWait, want.AckWait)
		out.AckWait = want.AckWait
	case have.AckWait > want.AckWait:
		c.kept("ack wait", have.AckWait)
	}
	if have.MaxDeliver > 0 { // else a message that reached it rests for ever, in no count
		c.changed("max deliver", have.MaxDeliver, want.MaxDeliver)
		out.MaxDeliver = want.MaxDeliver
	}
	if have.MaxAckPending >= 0 { // else requests that rest hold up the others
		c.changed("max ack pending", have.MaxAckPending, want.MaxAckPending)
		out.MaxAckPending = want.MaxAckPending
	}
	if len(have.BackOff) > 0 { // it would override the ack wait
		c.changed("backoff", have.BackOff, "none")
		out.BackOff = nil
	}
	if have.FilterSubject != "" || len(have.FilterSubjects) > 0 { // else some tenants are never served
		c.changed("filter", append(slices.Clone(have.FilterSubjects), have.FilterSubject), "none")
		out.FilterSubject, out.FilterSubjects = "", nil
	}
	if have.InactiveThreshold > 0 { // else it is deleted when no worker runs for a while
		c.changed("inactive threshold", have.InactiveThreshold, "none")
		out.InactiveThreshold = 0
	}
	return out, c
}
