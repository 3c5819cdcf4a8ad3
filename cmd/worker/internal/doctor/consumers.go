package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// watched are the streams that a consumer of somebody else's can do harm from.
var watched = []string{consumer.StreamRequests, consumer.StreamResults, consumer.StreamDeadLetters, "KV_" + ledger.DefaultBucket}

// foreignMax is how many foreign consumers of one stream are told one by one.
const foreignMax = 10

// consumers looks for consumers that stop or mislead the workers. JetStream delivers what a consumer
// pushes without a look at permissions, also to calls that the workers' consumer listens to, where each
// delivery takes a request that nobody gets; no other sign tells of it.
func (x *examination) consumers(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	total, foreign := 0, 0
	for _, stream := range watched {
		all, ok := x.listConsumers(ctx, js, stream)
		if !ok {
			return
		}
		total += len(all)
		foreign += x.tellForeign(stream, all)
	}
	if foreign == 0 {
		x.ok("nats consumers", fmt.Sprintf("%d, none delivers elsewhere than to an inbox, none but the workers' takes requests", total))
	}
}

// listConsumers returns the consumers of a stream, or tells why it can't, and returns false.
func (x *examination) listConsumers(ctx context.Context, js jetstream.JetStream, stream string) ([]*jetstream.ConsumerInfo, bool) {
	const notSeen = "consumers that take requests from under the workers would not be seen: "
	may, err := tryRight(js.Conn(), right{"list consumers", consumer.APISubject(js, "CONSUMER.LIST."+stream), "{"})
	switch {
	case err != nil:
		x.fail("nats consumers", notSeen+err.Error(), "")
		return nil, false
	case !may: // as the worker's own user, which is granted no more than the worker uses
		x.ok("nats consumers", notSeen+"this user may not list them; run doctor with an operator's credentials, too")
		return nil, false
	}
	from, err := js.Stream(ctx, stream)
	if err != nil {
		x.fail("nats consumers", notSeen+err.Error(), lookRemedy)
		return nil, false
	}
	var all []*jetstream.ConsumerInfo
	list := from.ListConsumers(ctx)
	for info := range list.Info() {
		all = append(all, info)
	}
	if err := list.Err(); err != nil {
		x.fail("nats consumers", notSeen+err.Error(), lookRemedy)
		return nil, false
	}
	return all, true
}

// tellForeign tells of those consumers of a stream that no part of flow-worker makes, and returns how many
// there are.
func (x *examination) tellForeign(stream string, all []*jetstream.ConsumerInfo) int {
	n := 0
	for _, info := range all {
		what := harm(stream, info)
		if what == "" {
			continue
		}
		if n++; n <= foreignMax {
			x.fail("nats consumers", fmt.Sprintf("consumer %q of %s %s", info.Name, stream, what), removal(stream, info.Name))
		}
	}
	if n > foreignMax {
		x.fail("nats consumers", fmt.Sprintf("%d more such consumers of %s", n-foreignMax, stream), `"nats consumer ls `+stream+`" names them`)
	}
	return n
}

// harm says what is wrong about a consumer, or nothing.
func harm(stream string, info *jetstream.ConsumerInfo) string {
	to := info.Config.DeliverSubject
	switch {
	case strings.HasPrefix(to, "$JS.API.CONSUMER.MSG.NEXT."+consumer.StreamRequests+"."):
		return fmt.Sprintf("delivers to %q: each message that it delivers takes a request, and nobody gets that", to)
	case strings.HasPrefix(to, "$JS.API.CONSUMER.RESET."+consumer.StreamRequests+"."):
		return fmt.Sprintf("delivers to %q: each message that it delivers has the workers' requests delivered again", to)
	case to != "" && !strings.HasPrefix(to, nats.InboxPrefix):
		return fmt.Sprintf("delivers to %q, which is no inbox: JetStream looks at nobody's permissions there", to)
	case stream == consumer.StreamRequests && info.Name != consumer.ConsumerName:
		return "takes requests that the workers don't get"
	}
	return ""
}

// removal says how to remove a consumer, and how to keep it from coming back.
func removal(stream, name string) string {
	return fmt.Sprintf("remove it as an administrator, if nobody knows what it is for: nats consumer rm %s %s --force; who made it may publish on $JS.API.CONSUMER.CREATE.%s.>: "+
		"take that right away from whoever misuses it ($JS.EVENT.ADVISORY.API names the user, at the time), and change that user's password", stream, shellWord(name), stream)
}

// shellWord returns a name as one word of a shell's, for whoever made the consumer chose it.
func shellWord(name string) string { return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'" }

// lookRemedy is for what can't be looked at, though the objects are there.
const lookRemedy = "if it says that something is not permitted, use the worker's or an operator's credentials (deploy/nats/accounts.conf); else see NATS's log: JetStream may have no leader"

// orphans looks for messages that will never be delivered again.
func (x *examination) orphans(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	var n uint64
	if err == nil {
		n, err = queue.Orphans(ctx, 0)
	}
	switch {
	case err != nil:
		x.fail("queue", err.Error(), lookRemedy)
	case n > 0:
		x.fail("queue", fmt.Sprintf("messages in %s that will never be delivered again: %d", consumer.StreamRequests, n), consumer.OrphanRemedy)
	default:
		x.ok("queue", "every message will be delivered")
	}
}

// ledger reads the whole ledger once: for requests that are stuck, and for the names of the tenants.
func (x *examination) ledger(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	book, err := ledger.Open(ctx, js, ledger.Config{ByMessage: true})
	if err != nil {
		x.fail("ledger", err.Error(), lookRemedy)
		return
	}
	tenants, specs := map[string]bool{}, map[string]bool{}
	var open []provision.Record
	read, unreadable := 0, 0
	for e, err := range book.List(ctx, ledger.Filter{}) {
		switch {
		case errors.Is(err, ledger.ErrUndecodable):
			unreadable++
			continue
		case err != nil:
			x.warn("ledger", fmt.Sprintf("only %d of its records could be read: %v", read, err), `"worker list --stuck" looks at one tenant only, if told so`)
			return
		}
		read++
		tenants[e.Record.Key.Tenant] = true
		if e.Record.State == provision.StateCreated { // others may name anything
			specs[e.Record.ConnectionSpec.ID] = true
		}
		if !e.Record.State.Final() {
			e.Record.Attempts = nil
			open = append(open, e.Record)
		}
	}
	x.tenants, x.specIDs = slices.Sorted(maps.Keys(tenants)), slices.Sorted(maps.Keys(specs))
	if unreadable > 0 {
		x.warn("ledger", fmt.Sprintf("%d records can't be read", unreadable), "were they written by a newer version? update this one")
	}
	x.stuck(ctx, js, book, open, read)
}

func (x *examination) stuck(ctx context.Context, js jetstream.JetStream, book *ledger.Ledger, open []provision.Record, read int) {
	queue, err := consumer.OpenQueue(ctx, js, &event.Decoder{})
	stuck := 0
	for _, rec := range open {
		if err != nil {
			break
		}
		var is bool
		if is, err = queue.Stuck(ctx, rec, book.Load); is {
			stuck++
		}
	}
	switch {
	case err != nil:
		x.fail("ledger", "it can't be compared with the queue: "+err.Error(), lookRemedy)
	case stuck > 0:
		x.fail("ledger", fmt.Sprintf("requests that are stuck: %d; they have not ended, and no message carries them any more", stuck),
			`"worker list --stuck" names them; `+consumer.StuckRemedy)
	default:
		x.ok("ledger", fmt.Sprintf("%d requests, %d of them under way, none stuck", read, len(open)))
	}
}
