package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// nats makes all checks that need NATS.
func (x *examination) nats(ctx context.Context) {
	nc, err := x.Connect()
	if err != nil {
		x.fail("nats", err.Error(), "")
		return
	}
	defer nc.Close()
	x.ok("nats", fmt.Sprintf("connected to %s, server %s", settings.MaskURLs(nc.ConnectedUrlRedacted()), nc.ConnectedServerVersion()))
	x.version(nc)
	js, err := app.NATSConfig(x.Settings).JetStream(nc)
	if err != nil {
		x.fail("nats", err.Error(), "")
		return
	}
	x.where(ctx, js)
	if !x.objects(ctx, js) {
		return
	}
	x.replicas(ctx, nc, js)
	x.room(ctx, js)
	x.rights(js)
	x.consumers(ctx, js)
	x.intake(ctx, js)
	x.natsClock(ctx, js)
	x.orphans(ctx, js)
	x.ledger(ctx, js)
}

func (x *examination) version(nc *nats.Conn) {
	if err := consumer.CheckServer(nc); err != nil {
		x.fail("nats version", err.Error(), "upgrade the server")
	} else if err := consumer.CheckPause(nc); err != nil {
		x.warn("nats version", "the intake can't be paused: "+err.Error(), "upgrade the server if you want to use \"worker pause\"")
	}
}

// lookRight is the first thing that is asked about the objects.
func lookRight(js jetstream.JetStream) right {
	return right{"look", consumer.APISubject(js, "STREAM.INFO.KV_"+ledger.DefaultBucket), ""}
}

const credentialsRemedy = "use the worker's or an operator's credentials; see deploy/nats/accounts.conf"

// objects compares streams, consumer and bucket with what is needed. It reports whether all are there
// and good enough.
func (x *examination) objects(ctx context.Context, js jetstream.JetStream) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if may, err := tryRight(js.Conn(), lookRight(js)); err == nil && !may { // else the question would have no answer
		x.fail("nats objects", "this user may not look at them: it may not publish on "+lookRight(js).subject, credentialsRemedy)
		return false
	}
	s := x.Settings
	s.ManageStreams = false // only look
	objects, err := app.EnsureObjects(ctx, js, s)
	for _, o := range objects.Report {
		if odd := risky(o.Kept); odd != "" {
			x.warn("nats objects", o.Name+": "+odd, "set it to the default, unless that was meant")
			continue
		}
		what := o.Name + " is as it must be"
		if len(o.Kept) > 0 {
			what += " (beyond the default: " + strings.Join(o.Kept, ", ") + ")"
		}
		x.ok("nats objects", what)
	}
	if refused := js.Conn().LastError(); err != nil && errors.Is(refused, nats.ErrPermissionViolation) {
		x.fail("nats objects", "this user may not look at them: "+refused.Error(), credentialsRemedy)
		return false
	}
	if err != nil {
		x.fail("nats objects", err.Error(), x.initRemedy(ctx, js))
	}
	x.limits(ctx, js, err == nil)
	return err == nil
}

// risky returns those settings that go beyond the default and may cost requests.
func risky(kept []string) string {
	var odd []string
	for _, k := range kept {
		if strings.Contains(k, "lost") || strings.Contains(k, "swallow") {
			odd = append(odd, k)
		}
	}
	return strings.Join(odd, ", ")
}

func (x *examination) replicas(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	if nc.ConnectedClusterName() == "" {
		return // a single server can't have more than one
	}
	bucket, err := js.Stream(ctx, "KV_"+ledger.DefaultBucket)
	if err != nil {
		return // objects has told
	}
	if n := bucket.CachedInfo().Config.Replicas; n < 3 {
		x.warn("nats replicas", fmt.Sprintf("the ledger has %d replica(s) in a cluster; losing one server can lose it", n),
			`set WORKER_REPLICAS=3 and run "worker init"`)
	}
}

// room tells of streams that are full: they can be read, and take nothing that is new.
func (x *examination) room(ctx context.Context, js jetstream.JetStream) {
	for _, name := range watched {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return // objects has told
		}
		if err := consumer.Room(stream.CachedInfo()); err != nil {
			x.fail("nats room", err.Error(), "raise the limit: nats stream edit "+name)
		}
	}
}

// intake tells whether requests are being taken.
func (x *examination) intake(ctx context.Context, js jetstream.JetStream) {
	from, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		x.fail("intake", err.Error(), lookRemedy)
		return
	}
	info := from.CachedInfo()
	if info.Paused {
		x.warn("intake", "THE INTAKE OF ALL WORKERS IS PAUSED", `"worker resume" ends it`)
	}
	queue := fmt.Sprintf("%d requests wait, %d are in workers' hands or rest", info.NumPending, info.NumAckPending)
	if info.NumWaiting == 0 && info.NumAckPending == 0 {
		x.warn("intake", queue+"; no worker asks for more", `is one running? "worker run"`)
		return
	}
	x.ok("intake", queue)
}

// natsClock compares the clock of JetStream's leader with this machine's.
func (x *examination) natsClock(ctx context.Context, js jetstream.JetStream) {
	stream, err := js.Stream(ctx, consumer.StreamRequests)
	if err != nil {
		return // objects has told
	}
	before := time.Now()
	info, err := stream.Info(ctx)
	if err != nil || info.TimeStamp.IsZero() {
		return
	}
	x.clock("NATS", info.TimeStamp, before, time.Now(), 0)
}

// clock compares another's clock, read between two moments and as fine as grain, with this machine's.
func (x *examination) clock(whose string, theirs, before, after time.Time, grain time.Duration) {
	ahead := max(theirs.Sub(after), 0)              // at least so much
	behind := max(before.Sub(theirs.Add(grain)), 0) // likewise
	off := max(ahead, behind).Round(100 * time.Millisecond)
	if off <= clockTolerance {
		x.ok("clock", fmt.Sprintf("this machine's and that of %s agree", whose))
		return
	}
	direction := "ahead of"
	if behind > 0 {
		direction = "behind"
	}
	x.warn("clock", fmt.Sprintf("the clock of %s is %v %s this machine's", whose, off, direction),
		"keep the workers' clocks in step (NTP): they may differ by 10 s at most")
}

// right is something that a worker, or who submits requests, must be allowed to publish.
type right struct {
	name    string
	subject string
	body    string
}

// probe stands in a tenant's place: no tenant can be called so.
const probe = "_doctor"

// workerRights are what a worker does. A request for messages that isn't JSON takes none.
func workerRights(js jetstream.JetStream) []right {
	record := "$KV." + ledger.DefaultBucket + "." + probe
	if opts := js.Options(); opts.Domain != "" || opts.APIPrefix != "" { // as the client of KV buckets has it
		record = consumer.APISubject(js, record)
	}
	return []right{
		{takeRequests, consumer.APISubject(js, "CONSUMER.MSG.NEXT."+consumer.StreamRequests+"."+consumer.ConsumerName), "{"},
		{"publish results", "connections.results." + probe + ".failed", ""},
		{"publish dead letters", "connections.deadletters." + probe, ""},
		{"write the ledger", record, ""},
	}
}

const takeRequests = "take requests"

// rights tries what this user may publish. A user that may take requests must be able to do the rest of
// a worker's work; one that may not is taken for an operator or a requester.
func (x *examination) rights(js jetstream.JetStream) {
	nc := js.Conn()
	var may, mayNot []string
	for _, r := range workerRights(js) {
		allowed, err := tryRight(nc, r)
		if err != nil {
			x.fail("nats rights", "can't be tried: "+err.Error(), "")
			return
		}
		if allowed {
			may = append(may, r.name)
		} else {
			mayNot = append(mayNot, r.name)
		}
	}
	if len(may) > 0 && may[0] == takeRequests && x.Settings.ManageStreams {
		x.repair(js)
	}
	submit, _ := tryRight(nc, right{"submit", "connections.requests." + x.requestsOf(), ""})
	x.tellRights(may, mayNot, submit)
}

// resetRight is what the worker mends a queue with that lost sight of messages. A request that isn't JSON
// resets nothing.
func resetRight(js jetstream.JetStream) right {
	return right{"reset", consumer.APISubject(js, "CONSUMER.RESET."+consumer.StreamRequests+"."+consumer.ConsumerName), "{"}
}

// repair tells whether a worker that may manage the NATS objects could mend the queue. Without, it works
// all the same, and only reports what it would have mended.
func (x *examination) repair(js jetstream.JetStream) {
	nc := js.Conn()
	const without = "messages that the queue loses sight of would be reported, but not delivered again: "
	if err := consumer.CheckReset(nc); err != nil {
		x.warn("nats repair", without+err.Error(), "")
		return
	}
	allowed, err := tryRight(nc, resetRight(js))
	switch {
	case err != nil:
		x.fail("nats repair", "can't be tried: "+err.Error(), "")
	case !allowed:
		x.warn("nats repair", without+"this user may not reset the consumer", "grant it to publish on "+resetRight(js).subject+", as deploy/nats/accounts.conf does")
	default:
		x.ok("nats repair", "this user may have messages delivered again that the queue lost sight of")
	}
}

func (x *examination) requestsOf() string {
	if x.Tenant == "" {
		return probe
	}
	return x.Tenant
}

func (x *examination) tellRights(may, mayNot []string, submit bool) {
	works := len(may) > 0 && may[0] == takeRequests
	switch {
	case len(mayNot) == 0:
		x.ok("nats rights", "this user may "+strings.Join(may, ", "))
	case works:
		x.fail("nats rights", "this user may take requests, but not "+strings.Join(mayNot, ", "), "grant what deploy/nats/accounts.conf grants the worker")
	case submit:
		x.ok("nats rights", "this user may submit and retry requests, but not work on them; run doctor with the worker's credentials to try those")
	default:
		x.warn("nats rights", "this user may neither work on requests nor submit them", credentialsRemedy)
	}
}

// tryRight reports whether nc's user may publish on the subject. The message demands a stream that does
// not exist, so the server stores nothing.
func tryRight(nc *nats.Conn, r right) (bool, error) {
	msg := &nats.Msg{Subject: r.subject, Data: []byte(r.body), Header: nats.Header{nats.ExpectedStreamHdr: {"no-such-stream"}}}
	if err := nc.PublishMsg(msg); err != nil {
		return false, err
	}
	if err := nc.FlushTimeout(patience); err != nil { // a refusal comes ahead of the answer
		return false, err
	}
	err := nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+r.subject+`"`), nil
}
