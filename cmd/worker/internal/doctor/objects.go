package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/ledger"
)

// where says which account and which JetStream domain the worker is in.
func (x *examination) where(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var user struct {
		Data struct{ User, Account string }
	}
	account := "an account that this user may not ask about"
	if ask(ctx, js, "$SYS.REQ.USER.INFO", &user) && user.Data.Account != "" {
		account = fmt.Sprintf("account %q", user.Data.Account)
	}
	var info struct{ Domain string }
	domain := "the domain is not known yet"
	for _, what := range []string{"STREAM.INFO." + consumer.StreamRequests, "STREAM.INFO.KV_" + ledger.DefaultBucket, "INFO"} {
		if !ask(ctx, js, consumer.APISubject(js, what), &info) {
			continue
		}
		if domain = "without a domain"; info.Domain != "" {
			domain = fmt.Sprintf("domain %q", info.Domain)
		}
		break
	}
	x.ok("jetstream", account+", "+domain)
}

// initRemedy says how to have the objects made, by what the account demands, if the user may ask.
func (x *examination) initRemedy(ctx context.Context, js jetstream.JetStream) string {
	var account struct {
		Limits struct {
			Required bool `json:"max_bytes_required"`
		}
	}
	if x.Settings.StreamMaxBytes == 0 && ask(ctx, js, consumer.APISubject(js, "INFO"), &account) && account.Limits.Required {
		return `this account wants a size for each stream: set WORKER_STREAM_MAX_BYTES, such as 1GB, and run "worker init"`
	}
	return `run "worker init", if nothing else is said`
}

// ask asks NATS and reports whether it got an answer; where the user may not ask, nothing waits for one.
func ask(ctx context.Context, js jetstream.JetStream, subject string, answer any) bool {
	may, err := tryRight(js.Conn(), right{"ask", subject, ""})
	if err != nil || !may {
		return false
	}
	msg, err := js.Conn().RequestWithContext(ctx, subject, nil)
	if err != nil {
		return false
	}
	var refused struct{ Error json.RawMessage }
	return json.Unmarshal(msg.Data, &refused) == nil && refused.Error == nil && json.Unmarshal(msg.Data, answer) == nil
}

// full is from which share on a limit is reported, in percent.
const full = 80

// limits says what the settings of existing objects mean for the worker, where they can stop or slow it. Where not
// all objects are sound, what can't be looked at was reported already.
func (x *examination) limits(ctx context.Context, js jetstream.JetStream, sound bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, name := range watched {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			if sound {
				x.fail("nats limits", err.Error(), lookRemedy)
			}
			return
		}
		for _, f := range streamLimits(stream.CachedInfo()) {
			x.add(f)
		}
	}
	workers, err := js.Consumer(ctx, consumer.StreamRequests, consumer.ConsumerName)
	if err != nil {
		if sound {
			x.fail("nats limits", err.Error(), lookRemedy)
		}
		return
	}
	if most := js.Conn().MaxPayload(); most < messageSize {
		x.warn("nats limits", fmt.Sprintf("the server takes messages of at most %d bytes (max_payload); requests, dead letters and records may have 256 KiB", most), fmt.Sprintf("raise max_payload to %d or more", messageSize))
	}
	for _, f := range consumerLimits(workers.CachedInfo()) {
		x.add(f)
	}
}

// refuses says what a stream does when it is full: name → words.
var refuses = map[string]string{
	consumer.StreamRequests:      "then further requests are refused",
	consumer.StreamResults:       "then no result can be published, and the work stops",
	consumer.StreamDeadLetters:   "then no failure can be published, and the work stops",
	"KV_" + ledger.DefaultBucket: "then no record can be written, and the work stops",
}

// messageSize is what a stream must take, in bytes: a request with its headers, or a record.
const messageSize = ledger.MaxRecordSize + 16<<10

func streamLimits(info *jetstream.StreamInfo) (all []Finding) {
	cfg := info.Config
	add := func(s Status, remedy, format string, args ...any) {
		all = append(all, Finding{"nats limits", s, cfg.Name + " " + fmt.Sprintf(format, args...), remedy})
	}
	const raise = `raise it: WORKER_STREAM_MAX_BYTES and "worker init", or "nats stream edit"`
	for _, limit := range []struct {
		name      string
		most, has int64
	}{{"max_bytes", cfg.MaxBytes, int64(info.State.Bytes)}, {"max_msgs", cfg.MaxMsgs, int64(info.State.Msgs)}} {
		share := 100 * float64(limit.has) / float64(max(limit.most, 1))
		switch {
		case limit.most <= 0:
		case cfg.Discard == jetstream.DiscardNew && share >= full:
			add(Warn, raise, "is %.0f %% full (%s %d); %s", share, limit.name, limit.most, refuses[cfg.Name])
		case cfg.Discard == jetstream.DiscardNew:
			add(OK, "", "is %.0f %% full (%s %d); when it is full, %s", share, limit.name, limit.most, strings.TrimPrefix(refuses[cfg.Name], "then "))
		case cfg.Retention == jetstream.WorkQueuePolicy:
			add(Warn, "nats stream edit "+cfg.Name+" --discard=new", "has %s %d and discard policy old: the oldest requests beyond it are lost", limit.name, limit.most)
		default:
			add(OK, "", "has %s %d and discard policy old: beyond it the oldest messages go before they are 30 days old", limit.name, limit.most)
		}
	}
	if size := int64(cfg.MaxMsgSize); size > 0 && size < messageSize {
		add(Warn, fmt.Sprintf("raise max_msg_size to %d or more", messageSize), "takes no message of more than %d bytes, though requests and records may have 256 KiB", size)
	}
	if cfg.SubjectTransform != nil {
		add(Fail, "take the subject transform away: nats stream edit "+cfg.Name, "changes subjects (%s → %s), by which tenants are told apart", cfg.SubjectTransform.Source, cfg.SubjectTransform.Destination)
	}
	return all
}

// What an operator may bound pulls by without slowing the work.
const (
	wideEnough = 64
	longEnough = time.Second
)

func consumerLimits(info *jetstream.ConsumerInfo) (all []Finding) {
	cfg := info.Config
	add := func(s Status, remedy, format string, args ...any) {
		all = append(all, Finding{"nats limits", s, "consumer " + info.Name + " " + fmt.Sprintf(format, args...), remedy})
	}
	const remake = "nats consumer rm " + consumer.StreamRequests + " " + consumer.ConsumerName + ` --force, then "worker init": no request is lost by that, some may be delivered again`
	most := max(cfg.MaxWaiting, 1)
	if 100*info.NumWaiting/most >= full {
		add(Warn, "run fewer workers with a higher WORKER_CONCURRENCY, or have the consumer made with a greater max_waiting: "+remake,
			"holds %d of at most %d pull requests (max_waiting), one for each worker; further workers get nothing", info.NumWaiting, most)
	} else {
		add(OK, "", "has room for %d workers (max_waiting), %d pull requests wait", most, info.NumWaiting)
	}
	const mend = `"worker init" mends it, or the worker at its start, with WORKER_MANAGE_STREAMS`
	if filters := append(slices.Clone(cfg.FilterSubjects), cfg.FilterSubject); strings.Join(filters, "") != "" {
		add(Fail, mend, "gets only requests on %s (filter), so other tenants are never served", strings.TrimSpace(strings.Join(filters, " ")))
	}
	if cfg.DeliverPolicy != jetstream.DeliverAllPolicy {
		add(Fail, remake, "passes over requests that were there before it (deliver policy %v)", cfg.DeliverPolicy)
	}
	if cfg.MaxDeliver > 0 {
		add(Fail, mend, "forgets a request after %d deliveries (max_deliver), whatever became of it", cfg.MaxDeliver)
	}
	if cfg.MaxAckPending > 0 {
		add(Warn, mend, "gives out no request while %d are in work or rest (max_ack_pending), so resting ones hold up all others", cfg.MaxAckPending)
	}
	if len(cfg.BackOff) > 0 {
		add(Warn, mend, "delivers requests again by its backoff %v in place of the ack wait, also while they are worked on", cfg.BackOff)
	}
	if cfg.InactiveThreshold > 0 {
		add(Warn, mend, "is deleted when no worker has asked for %v (inactive_threshold), with what it knows of deliveries", cfg.InactiveThreshold)
	}
	if cfg.MaxRequestBatch > 0 && cfg.MaxRequestBatch < wideEnough {
		add(Warn, "nats consumer edit: raise max_batch, or take it off", "lets a worker take no more than %d requests in one pull (max_batch), which slows it", cfg.MaxRequestBatch)
	}
	if cfg.MaxRequestExpires > 0 && cfg.MaxRequestExpires < longEnough {
		add(Warn, "nats consumer edit: raise max_expires, or take it off", "ends a pull after %v (max_expires), so idle workers ask again and again", cfg.MaxRequestExpires)
	}
	if cfg.MaxRequestMaxBytes > 0 {
		add(OK, "", "bounds the bytes that a pull may ask for (max_bytes %d), which the worker never does", cfg.MaxRequestMaxBytes)
	}
	if cfg.ReplayPolicy == jetstream.ReplayOriginalPolicy {
		add(Fail, remake, "replays requests at the speed at which they came (replay policy original), so a backlog takes as long again")
	}
	if cfg.MemoryStorage {
		add(Warn, remake, "is kept in memory: after a restart of its server all requests under way are delivered again")
	}
	return all
}
