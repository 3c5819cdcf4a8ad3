package deploy

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/consumer"
	"github.com/flow-worker/flow-worker/internal/natstest"
)

var confEntry = regexp.MustCompile(`"([^"]+)"`)

// rightsOf returns what a user of accounts.conf may publish and subscribe to.
func rightsOf(t *testing.T, user string) (entries []probe) {
	t.Helper()
	text := regexp.MustCompile(`#.*`).ReplaceAllString(string(read(t, natsAccount)), "")
	_, text, found := strings.Cut(text, "user: "+user+",")
	text, _, _ = strings.Cut(text, "user:")
	text, _, _ = strings.Cut(text, "imports:")
	pub, sub, both := strings.Cut(text, "subscribe")
	if !found || !both || strings.Contains(text, "deny") {
		t.Fatalf("the rights of %s can't be read", user)
	}
	for _, m := range confEntry.FindAllStringSubmatch(pub, -1) {
		entries = append(entries, probe{"pub", m[1]})
	}
	for _, m := range confEntry.FindAllStringSubmatch(sub, -1) {
		entries = append(entries, probe{"sub", m[1]})
	}
	return entries
}

// TestNATSWorkerHasExactlyWhatItUses has a worker live: nothing is refused; and each of its rights taken
// away, something that it did is.
func TestNATSWorkerHasExactlyWhatItUses(t *testing.T) {
	uses := trace(t)
	checkEachIsNeeded(t, "worker", uses)
}

// checkEachIsNeeded takes each of a user's rights away in turn, and finds that something of what the user
// does is refused then.
func checkEachIsNeeded(t *testing.T, user string, uses []probe) {
	t.Helper()
	rights := rightsOf(t, user)
	for _, right := range rights {
		t.Run(right.verb+" "+right.subject, func(t *testing.T) {
			i := slices.IndexFunc(uses, func(u probe) bool { return u.verb == right.verb && covers(right.subject, u.subject) })
			if i < 0 {
				t.Fatal("it is never needed")
			}
			b := newEditedBroker(t, func(s string) string { return without(s, user, right.subject) })
			nc, _ := b.connect(user)
			if b.do(nc, uses[i]); !b.denied(nc) {
				t.Errorf("without this right, %s is still allowed", uses[i].subject)
			}
		})
	}
	t.Logf("%d rights, each of them needed", len(rights))
}

// without takes an entry out of a user's rights.
func without(accounts, user, entry string) string {
	head, rest, _ := strings.Cut(accounts, "user: "+user+",")
	return head + "user: " + user + "," + strings.Replace(rest, `"`+entry+`"`, `"nothing"`, 1)
}

// TestNATSInitHasExactlyWhatItUses has `worker init` make the objects, find them there, and upgrade each.
func TestNATSInitHasExactlyWhatItUses(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newEditedBroker(t, withAdmin)
	at := newTap(t, b.url)
	l := newLife(ctx, b, at, true)
	l.init = natstest.Connect(t, at.url("init"), consumer.OwnInbox())
	l.js = l.init
	l.initialize("make")
	l.initialize("look")
	l.spoilStreams()
	l.spoilConsumer()
	_, worker := b.connect("worker")
	short, cancel := context.WithTimeout(ctx, 2*settle) // the refused call has no answer
	defer cancel()
	_, err := consumer.EnsureObjects(short, worker, consumer.ObjectsConfig{Manage: true})
	if err == nil || !strings.Contains(err.Error(), `run "worker init" as one who may`) {
		t.Errorf("a worker upgrades streams: %v", err)
	}
	l.initialize("upgrade")
	for _, name := range []string{consumer.StreamRequests, consumer.StreamResults, consumer.StreamDeadLetters, ledgerStream} {
		if cfg := mustStream(ctx, t, l.admin, name).CachedInfo().Config; cfg.NoAck || cfg.MaxAge == time.Hour || cfg.Discard != wantDiscard(name) {
			t.Errorf("not upgraded: %+v", cfg)
		}
	}
	if refused := at.refusals(); len(refused) > 0 {
		t.Errorf("refused: %q", refused)
	}
	checkEachIsNeeded(t, "init", at.uses())
}

// initialize does what `worker init` does.
func (l *life) initialize(what string) {
	l.t.Helper()
	_, err := consumer.EnsureObjects(l.ctx, l.init, l.objects())
	l.must(what, err)
}

func wantDiscard(stream string) jetstream.DiscardPolicy {
	if stream == consumer.StreamRequests || stream == ledgerStream {
		return jetstream.DiscardNew
	}
	return jetstream.DiscardOld
}

func (b *broker) do(nc *nats.Conn, p probe) {
	b.t.Helper()
	var err error
	if p.verb == "sub" {
		_, err = nc.SubscribeSync(p.subject)
	} else {
		err = nc.Publish(p.subject, nil)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// covers reports whether a subject matches a pattern.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}
