package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// probe is something that a user may or may not do.
type probe struct{ verb, subject string }

func (p probe) compare(q probe) int {
	return cmp.Or(strings.Compare(p.verb, q.verb), strings.Compare(p.subject, q.subject))
}

// Outcomes of a probe.
const (
	refused   = "–"
	allowed   = "**yes**"
	elsewhere = "own" // allowed, but all of it stays in the user's own account
)

// natsRoles are the columns of the matrix; "nobody" has no password.
var natsRoles = []string{"acme", "globex", "worker", "operator", "init", "nobody"}

// objectProbes are what can be done to the streams, one row per object; %s is filled in.
var (
	streamOps = strings.Fields(`STREAM.INFO STREAM.CREATE STREAM.UPDATE STREAM.DELETE STREAM.PURGE STREAM.MSG.GET STREAM.MSG.DELETE
		STREAM.SNAPSHOT STREAM.RESTORE STREAM.PEER.REMOVE STREAM.LEADER.STEPDOWN DIRECT.GET CONSUMER.LIST CONSUMER.NAMES`)
	consumerOps = strings.Fields(`CONSUMER.INFO CONSUMER.CREATE CONSUMER.DURABLE.CREATE CONSUMER.DELETE CONSUMER.MSG.NEXT CONSUMER.PAUSE
		CONSUMER.RESET CONSUMER.UNPIN CONSUMER.LEADER.STEPDOWN`)
	streamNames   = []string{"CONNECTION_REQUESTS", "CONNECTION_RESULTS", "CONNECTION_DEADLETTERS", "KV_connection-ledger", "OTHER"}
	consumerNames = []string{"CONNECTION_REQUESTS.flow-worker", "CONNECTION_REQUESTS.thief", "CONNECTION_RESULTS.mine",
		"CONNECTION_DEADLETTERS.mine", "KV_connection-ledger.mine", "OTHER.mine"}
)

// plainProbes are all others, in the order of the page.
var plainProbes = []struct {
	verb     string
	subjects []string
}{
	{"pub", strings.Fields(`connections.requests.acme connections.requests.globex connections.requests._invalid connections.requests.* connections.requests.>
		connections.results.acme.created connections.results.globex.failed connections.deadletters.acme connections.deadletters._invalid connections.status.acme
		connections.status.globex connections.status.* connections.other`)},
	{"sub", strings.Fields(`connections.requests.acme connections.requests.globex connections.requests.* connections.results.acme.created
		connections.results.acme.* connections.results.globex.* connections.results.*.* connections.results.> connections.deadletters.acme
		connections.deadletters.* connections.status.acme connections.status.* connections.> > *.*.* *`)},
	{"pub", strings.Fields(`$KV.connection-ledger.acme.x.y $KV.connection-ledger.globex.x.y $KV.connection-ledger._flow-worker.complete $KV.other.x`)},
	{"sub", strings.Fields(`$KV.connection-ledger.> $KV.>`)},
	{"pub", strings.Fields(`_INBOX.abc.1 _R_.abc.1 _GR_.abc`)},
	{"sub", strings.Fields(`_INBOX.> _INBOX.abc.* _INBOX.worker.> _INBOX.operator.> _INBOX.init.> _INBOX.worker.abc.* _R_.> _GR_.>`)},
	{"pub", strings.Fields(`$JS.API.INFO $JS.API.STREAM.NAMES $JS.API.STREAM.LIST $JS.API.ACCOUNT.PURGE.FLOW $JS.API.META.LEADER.STEPDOWN
		$JS.API.SERVER.REMOVE $JS.hub.API.INFO $JS.hub.API.STREAM.DELETE.CONNECTION_REQUESTS
		$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS $JS.API.CONSUMER.CREATE.KV_connection-ledger
		$JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.flow-worker.connections.requests.acme $JS.API.CONSUMER.CREATE.CONNECTION_REQUESTS.thief.connections.requests.acme
		$JS.API.CONSUMER.CREATE.CONNECTION_RESULTS.mine.connections.results.globex.* $JS.API.CONSUMER.CREATE.KV_connection-ledger.mine.$KV.connection-ledger.>
		$JS.API.DIRECT.GET.CONNECTION_REQUESTS.connections.requests.acme $JS.API.DIRECT.GET.CONNECTION_RESULTS.connections.results.globex.created
		$JS.API.DIRECT.GET.KV_connection-ledger.$KV.connection-ledger.acme.x.y`)},
	{"pub", strings.Fields(`$JS.ACK.CONNECTION_REQUESTS.flow-worker.1.1.1.1.1 $JS.ACK.hub.h.CONNECTION_REQUESTS.flow-worker.1.1.1.1.1 $JS.ACK.CONNECTION_RESULTS.mine.1.1.1.1.1
		$JS.FC.CONNECTION_REQUESTS.flow-worker.1 $JS.FC.KV_connection-ledger.mine.1`)},
	{"sub", strings.Fields(`$JS.API.> $JS.ACK.> $JS.FC.> $JS.EVENT.ADVISORY.> $JS.EVENT.METRIC.> $JS.>`)},
	{"pub", strings.Fields(`$SYS.REQ.SERVER.PING $SYS.REQ.SERVER.PING.CONNZ $SYS.REQ.USER.INFO $SYS.REQ.ACCOUNT.PING.CONNZ $SYS.REQ.ACCOUNT.FLOW.JSZ
		$SYS.REQ.CLAIMS.UPDATE $SYS.REQ.SERVER.ABC.RELOAD $SYS.REQ.SERVER.ABC.KICK $SYS.ACCOUNT.FLOW.CONNECT`)},
	{"sub", strings.Fields(`$SYS.> $SYS.ACCOUNT.>`)},
}

// natsProbes returns the rows of the matrix.
func natsProbes() []probe {
	var all []probe
	for _, group := range plainProbes {
		for _, subject := range group.subjects {
			all = append(all, probe{group.verb, subject})
		}
	}
	for _, name := range streamNames {
		for _, op := range streamOps {
			all = append(all, probe{"pub", "$JS.API." + op + "." + name})
		}
	}
	for _, name := range consumerNames {
		for _, op := range consumerOps {
			all = append(all, probe{"pub", "$JS.API." + op + "." + name})
		}
	}
	return all
}

// onlooker sees all that is said in the workers' account, and can say anything there.
type onlooker struct {
	*nats.Conn
	all  *nats.Subscription
	seen map[string]int // :: mark → messages with it
}

const probeMark = "Probe"

func newOnlooker(b *broker) *onlooker {
	b.t.Helper()
	nc, _ := b.connect("admin")
	all, err := nc.SubscribeSync(">")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return &onlooker{nc, all, map[string]int{}}
}

// saw reports whether a message with the mark has come by now.
func (o *onlooker) saw(t *testing.T, mark string) bool {
	t.Helper()
	if err := o.Flush(); err != nil { // what the server had for it comes before the answer
		t.Fatal(err)
	}
	for {
		n, _, err := o.all.Pending()
		if n == 0 || err != nil {
			return o.seen[mark] > 0
		}
		msg, err := o.all.NextMsg(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		o.seen[msg.Header.Get(probeMark)]++
	}
}

// try has a user do what a probe says, harmlessly: the message demands a stream that does not exist, and
// is no JSON.
func (b *broker) try(ctx context.Context, o *onlooker, role string, p probe) string {
	b.t.Helper()
	if role == "nobody" {
		nc, err := nats.Connect(b.url)
		if err == nil {
			nc.Close()
			return allowed
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			b.t.Error(err)
		}
		return refused
	}
	nc, err := nats.Connect(b.url, natstest.As(role, "pw-"+role))
	if err != nil {
		b.t.Fatal(err)
	}
	defer nc.Close()
	if p.verb == "sub" {
		return b.trySub(ctx, o, nc, p.subject)
	}
	return b.tryPub(o, nc, role+" "+p.subject, p.subject)
}

func (b *broker) tryPub(o *onlooker, nc *nats.Conn, mark, subject string) string {
	b.t.Helper()
	msg := &nats.Msg{Subject: subject, Data: []byte("{"), Header: nats.Header{nats.ExpectedStreamHdr: {"no-such-stream"}, probeMark: {mark}}}
	if err := nc.PublishMsg(msg); err != nil {
		b.t.Fatal(err)
	}
	denied := b.denied(nc)
	switch seen := o.saw(b.t, mark); {
	case denied && seen:
		b.t.Errorf("%s: was refused, and seen all the same", mark)
		return allowed
	case denied:
		return refused
	case seen:
		return allowed
	}
	return elsewhere
}

// trySub subscribes and sees whether what is said in the workers' account on such a subject comes.
func (b *broker) trySub(ctx context.Context, o *onlooker, nc *nats.Conn, subject string) string {
	b.t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.denied(nc) {
		return refused
	}
	example := strings.NewReplacer("*", "acme", ">", "acme.x").Replace(subject)
	if err := errors.Join(o.Publish(example, nil), o.Flush()); err != nil {
		b.t.Fatal(err)
	}
	// The server has handed the message over before it answers a ping that comes after it.
	if err := nc.FlushWithContext(ctx); err != nil {
		b.t.Fatal(err)
	}
	if n, _, err := sub.Pending(); err != nil || n == 0 {
		return elsewhere
	}
	return allowed
}

// observe runs the whole matrix.
func (b *broker) observe(ctx context.Context) map[probe][]string { // :: probe → outcome per role
	b.t.Helper()
	o := newOnlooker(b)
	seen := map[probe][]string{}
	for _, p := range natsProbes() {
		for _, role := range natsRoles {
			seen[p] = append(seen[p], b.try(ctx, o, role, p))
		}
	}
	return seen
}

// A matrix is what was observed, role by role.
func TestNATSMatrix(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newEditedBroker(t, withGlobex, withAdmin)
	_, js := b.connect("admin")
	b.createObjects(ctx, js)
	seen := b.observe(ctx)
	n := map[string]int{}
	for _, outcomes := range seen {
		for _, o := range outcomes {
			n[o]++
		}
	}
	t.Logf("%d things tried by %d roles: %d allowed, %d allowed among themselves, %d refused",
		len(seen), len(natsRoles), n[allowed], n[elsewhere], n[refused])
	checkPage(t, "nats", renderNATS(seen))
}

// renderNATS makes a table of what was observed. What can be done to an object with the same outcome for
// everybody shares a row.
func renderNATS(seen map[probe][]string) string {
	var rows []string
	groups := map[string][]string{} // :: object and outcomes → what is done to it
	for _, p := range natsProbes() {
		object, what := p.subject, p.verb
		if name, ok := lastOf(p.subject, slices.Concat(consumerNames, streamNames)); ok && strings.HasPrefix(p.subject, "$JS.API.") {
			object, what = name, strings.TrimSuffix(strings.TrimPrefix(p.subject, "$JS.API."), "."+name)
		}
		row := "`" + object + "` | " + strings.Join(seen[p], " | ")
		if len(groups[row]) == 0 {
			rows = append(rows, row)
		}
		groups[row] = append(groups[row], what)
	}
	var page strings.Builder
	fmt.Fprintf(&page, "| what | subject or object | %s |\n|---%s|\n", strings.Join(natsRoles, " | "), strings.Repeat("|---", 1+len(natsRoles)))
	for _, row := range rows {
		fmt.Fprintf(&page, "| %s | %s |\n", strings.Join(groups[row], " · "), row)
	}
	return page.String()
}

// lastOf returns which of the names ends a subject of the JetStream API.
func lastOf(subject string, names []string) (string, bool) {
	for _, name := range names {
		if strings.HasSuffix(subject, "."+name) {
			return name, true
		}
	}
	return "", false
}
