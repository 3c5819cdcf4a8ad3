//go:build soak && linux

package fairness

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const partitions = 16

// TestPartitions is design A: the stream sorts requests into partitions by tenant, each with a
// consumer of its own.
func TestPartitions(t *testing.T) {
	ctx := patient(t)
	w := newWorld(ctx, t, 1)
	plain := w.brokers.usage(t)
	p, running := newPrototype(ctx, t, w.brokers.connect(t))
	cfg := requestsStream(1)
	cfg.SubjectTransform = transform(partitions)
	stream, err := w.js.CreateStream(ctx, cfg)
	must(t, err)
	began := time.Now()
	for i := range partitions {
		from, err := w.js.CreateConsumer(ctx, stream.CachedInfo().Config.Name, filtered(fmt.Sprintf("flow-worker-%d", i), fmt.Sprintf("connections.requests.%d.*", i)))
		must(t, err)
		p.follow(running, from)
	}
	created := time.Since(began)
	idle := w.brokers.usage(t)
	pass(ctx, *watchFlag)
	idled := w.brokers.usage(t)

	w.publish(ctx, t, big, *queuedFlag)
	pass(ctx, time.Second)
	home := partitionOf(ctx, t, stream, big)
	same, other := tenantsBeside(ctx, t, w, stream, home)
	asked := p.quickly(ctx, t, w.request(t, other))
	elsewhere, _ := p.await(ctx, other, asked, time.Minute)
	asked = p.quickly(ctx, t, w.request(t, same))
	rate := float64(slots) / latency.Seconds()
	inside, ok := p.await(ctx, same, asked, max(3*time.Second, *watchFlag))
	behind := fmt.Sprint(inside.Round(time.Millisecond))
	if !ok {
		behind = fmt.Sprintf("more than %v; %v at %.0f/s", inside, time.Duration(float64(*queuedFlag)/rate*float64(time.Second)).Round(time.Second), rate)
	}
	info, err := stream.Info(ctx)
	must(t, err)
	show(t, row{"partitions", partitions}, row{"time to create their consumers", created}, row{"broker, before", plain.memory()}, row{"broker, idle", idled.memory()},
		row{"broker, idle, cores", idled.cores(idle)}, row{"queued", *queuedFlag}, row{"big's partition", home},
		row{"waited in another partition", elsewhere}, row{"waited in the same partition", behind},
		row{"consumers", info.State.Consumers}, row{"consumer flow-worker beside them", refusal(addUnfiltered(ctx, w.js))})
	w.showResized(ctx, t, cfg, stream, home)
}

func transform(n int) *jetstream.SubjectTransformConfig {
	return &jetstream.SubjectTransformConfig{
		Source: "connections.requests.*", Destination: fmt.Sprintf("connections.requests.{{partition(%d,1)}}.{{wildcard(1)}}", n),
	}
}

// addUnfiltered adds the consumer that the contract names.
func addUnfiltered(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.CreateConsumer(ctx, "CONNECTION_REQUESTS", filtered("flow-worker", ""))
	return err
}

// partitionOf finds the tenant's queued requests.
func partitionOf(ctx context.Context, t *testing.T, stream jetstream.Stream, tenant string) string {
	t.Helper()
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("connections.requests.*."+tenant))
	must(t, err)
	var where []string
	for s := range info.State.Subjects {
		where = append(where, strings.Split(s, ".")[2])
	}
	return strings.Join(where, " and ")
}

// tenantsBeside returns a tenant whose requests go into the partition named, and one whose don't. Only
// the broker knows, so both are found out by asking; their requests are worked on as any other.
func tenantsBeside(ctx context.Context, t *testing.T, w *world, stream jetstream.Stream, home string) (same, other string) {
	t.Helper()
	_, err := w.js.CreateStream(ctx, jetstream.StreamConfig{Name: "TRY", Subjects: []string{"try.*"},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: "try.*", Destination: fmt.Sprintf("try.{{partition(%d,1)}}.{{wildcard(1)}}", partitions)}})
	must(t, err)
	for i := 0; same == "" || other == ""; i++ {
		tenant := fmt.Sprintf("tenant-%d", i)
		ack, err := w.js.Publish(ctx, "try."+tenant, nil)
		must(t, err)
		try, err := w.js.Stream(ctx, ack.Stream)
		must(t, err)
		msg, err := try.GetMsg(ctx, ack.Sequence)
		must(t, err)
		if strings.Split(msg.Subject, ".")[1] == home {
			same = tenant
		} else {
			other = tenant
		}
	}
	return same, other
}

// showResized shows what becomes of what is queued when the number of partitions changes.
func (w *world) showResized(ctx context.Context, t *testing.T, cfg jetstream.StreamConfig, stream jetstream.Stream, home string) {
	t.Helper()
	cfg.SubjectTransform = transform(2*partitions + 1)
	_, err := w.js.UpdateStream(ctx, cfg)
	must(t, err)
	_, err = w.js.PublishMsg(ctx, w.request(t, big))
	must(t, err)
	show(t, row{"partitions after the change", 2*partitions + 1}, row{"big's requests were in", home}, row{"and are in", partitionOf(ctx, t, stream, big)})
}
