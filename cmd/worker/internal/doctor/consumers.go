package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
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
