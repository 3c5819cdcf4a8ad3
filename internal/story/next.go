package story

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Next is what comes next for a request.
type Next struct {
	Text string    // in plain words
	At   time.Time // when; zero where nothing is due, or nobody knows
}

// WhatNext returns what comes next for a request, as far as its record says. A worker that has it in flight
// may be ahead of its record.
func WhatNext(rec provision.Record, now time.Time) Next {
	rests, resting := time.Time{}, false
	if n := len(rec.Attempts); n > 0 && !rec.Held {
		rests, resting = restOf(rec.Attempts[n-1])
	}
	switch {
	case rec.Final != nil:
		return afterFinal(rec.Final.Result)
	case rec.State == provision.StatePosting:
		return posting(rec, now)
	case resting && rests.After(now):
		return Next{"it rests in the queue, then " + nextStep(rec), rests}
	case resting:
		return Next{"it is due: the next free worker " + nextStep(rec), rests}
	case rec.Held && now.Before(rec.HeldUntil) && rec.NotBefore.After(now):
		return Next{"its worker waits, for that is what it was asked to do, then " + nextStep(rec), rec.NotBefore}
	case rec.Held && now.Before(rec.HeldUntil):
		return Next{"a worker has it in hand and " + nextStep(rec), time.Time{}}
	case rec.Held:
		return Next{"its worker gave no sign of life: as soon as the queue delivers it again, another one " + nextStep(rec), rec.HeldUntil}
	}
	return Next{"the next free worker " + nextStep(rec), time.Time{}}
}

func afterFinal(r provision.Result) Next {
	switch {
	case r.Error == nil:
		return Next{Text: "nothing: it is done, and its result was published"}
	case r.Error.Retryable:
		return Next{Text: "nothing by itself: it has failed. Sent again unchanged it may well succeed"}
	}
	return Next{Text: "nothing by itself: it has failed, and fails again until what is named as its cause was mended"}
}

func posting(rec provision.Record, now time.Time) Next {
	end := rec.PostedAt.Add(rec.Lease)
	if now.Before(end) {
		return Next{"the Flow Service's answer to the POST, or the end of its time", end}
	}
	over := end.Add(provision.ClockSkew)
	if now.Before(over) {
		return Next{"the POST's time is over: another worker takes it up, and looks up whether the POST made a connection", over}
	}
	return Next{"as soon as the queue delivers it again, a worker looks up whether the POST made a connection", over}
}

// nextStep says what a worker does with a request in this state, as the end of a sentence.
func nextStep(rec provision.Record) string {
	switch {
	case rec.State == provision.StateUnknown:
		return "looks up whether the POST made a connection; another is sent only if none is there when WORKER_SETTLE has passed since the POST's end"
	case rec.Missing != nil:
		return "reads the missing secret again; it fails if that is still not there after WORKER_SECRET_GRACE"
	case rec.LookFirst:
		return "looks whether its connection is there already, and sends a POST if not"
	case rec.Posts > 0:
		return "sends the POST again: the last one made nothing for certain"
	}
	return "gets the secrets and sends the first POST"
}

// restOf returns until when an attempt that gave the request back let it rest.
func restOf(a provision.Attempt) (time.Time, bool) {
	text, found := strings.CutPrefix(a.Detail, "for ")
	if a.Step != "handback" || !found {
		return time.Time{}, false
	}
	d, err := time.ParseDuration(text)
	return a.At.Add(d), err == nil
}

// Event is one entry of a request's timeline.
type Event struct {
	At     time.Time
	Took   time.Duration // 0 where it took no time, or nobody knows
	Retry  int           // the round that it belongs to
	Worker string        // who did it; empty for nobody
	Tone   Tone
	Text   string // what happened, in plain words
	Detail string // its cause as it was recorded, such as upstream's message; may be empty
}

// Timeline returns all that is known of a request's life, in order: how it entered the stream, every
// attempt that its record holds, the POST that is under way, and how it ended.
func Timeline(rec provision.Record) []Event {
	var events []Event
	if !rec.RequestedAt.IsZero() {
		events = append(events, Event{At: rec.RequestedAt, Retry: rec.Retry, Text: "entered the stream"})
		if rec.Retry > 0 {
			events[0].Text = fmt.Sprintf("entered the stream again, as retry %d", rec.Retry)
		}
	}
	for i, a := range rec.Attempts {
		if rec.Final != nil && a.Step == "final" && i == len(rec.Attempts)-1 {
			break // it follows, in more words
		}
		events = append(events, eventOf(a))
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) }) // earlier rounds came before this entry
	if rec.State == provision.StatePosting {
		events = append(events, Event{At: rec.PostedAt, Retry: rec.Retry, Worker: rec.Owner,
			Text: fmt.Sprintf("POST %d is announced in the ledger and sent", rec.Posts)})
	}
	if rec.Final != nil {
		events = append(events, endOf(rec))
	}
	return events
}

func endOf(rec provision.Record) Event {
	end, r := Ending(rec.Final.Result), rec.Final.Result
	e := Event{At: end.At, Retry: rec.Retry, Worker: rec.Owner, Tone: end.Tone, Text: end.Text}
	if r.Error != nil {
		e.Text, e.Detail = "failed: "+string(r.Error.Reason), r.Error.Message
	}
	return e
}

func eventOf(a provision.Attempt) Event {
	e := Event{At: a.At, Took: time.Duration(a.Elapsed * float64(time.Second)), Retry: a.Retry, Worker: a.Owner, Detail: a.Detail}
	line, known := phraseOf(a)
	switch until, rests := restOf(a); {
	case a.Step == "final" && a.Result == provision.OutcomeFailed:
		line = Line{Tone: Bad, Text: "failed"}
	case a.Step == "final":
		line = Line{Tone: Good, Text: a.Result}
	case !known:
		line.Text = a.Step + ": " + a.Result
	case rests:
		e.Detail = ""
		line.Text += " until " + until.UTC().Format("15:04:05Z")
	}
	e.Tone, e.Text = line.Tone, line.Text
	return e
}

// Command is a command line that acts on a request, or looks at it.
type Command struct {
	Line string // for a POSIX shell; where the request's names hold what does not print, for one that knows $'…'
	Does string // what it does, in plain words
}

// Commands returns what an operator can type about a request as it stands, the most useful first. What
// changes something asks for confirmation before it does.
func Commands(rec provision.Record) []Command {
	var list []Command
	switch {
	case rec.Final == nil:
		return []Command{
			{CommandLine("status", rec.Key, "--watch"), "follows it until it has ended"},
			{"worker list --stuck --tenant " + Word(rec.Key.Tenant), "tells whether a message still carries it"},
		}
	case rec.Final.Result.Error == nil:
	case rec.Final.Result.Error.Reason == provision.ReasonOutcomeUnknown:
		list = append(list,
			Command{CommandLine("retry", rec.Key, ""), "sends it again: it is looked up before anything is posted"},
			Command{CommandLine("resolve", rec.Key, "--connection CONNECTION --reason WHY"), "settles it where a retry can't: you name the connection that it made"},
			Command{CommandLine("resolve", rec.Key, "--absent --reason WHY"), "settles it where a retry can't: you say that it made none"})
	case sentAgain(rec.Final.Result.Error.Reason):
		list = append(list, Command{CommandLine("retry", rec.Key, "--dry-run"), "shows what would be sent again"},
			Command{CommandLine("retry", rec.Key, ""), "sends it again, once its cause is mended; it is looked up before anything is posted"})
	}
	return append(list, Command{CommandLine("status", rec.Key, ""), "tells this story in a terminal"})
}

// sentAgain reports whether sending a request again unchanged is of any use, after its cause was mended.
func sentAgain(r provision.Reason) bool {
	return r != provision.ReasonInvalidRequest && r != provision.ReasonPlaintextSecret && r != provision.ReasonIDReused
}

// CommandLine returns the line that has a subcommand of worker act on a request, for a POSIX shell as in Command.
// The flag goes with it as it is; it may be empty. Don't put the line into quotes of any kind: who copies them with
// it takes its own quotes away.
func CommandLine(command string, key provision.Key, flag string) string {
	words := []string{"worker", command, "--tenant", Word(key.Tenant), "--source", Word(key.Source)}
	if flag != "" {
		words = append(words, flag)
	}
	if strings.HasPrefix(key.ID, "-") {
		words = append(words, "--")
	}
	return strings.Join(append(words, Word(key.ID)), " ")
}

// Word returns text as one word of a shell's command line, of printable characters only.
func Word(text string) string {
	switch {
	case text != "" && strings.Trim(text, wordChars) == "":
		return text
	case Printable(text) == text:
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case strings.IndexByte(wordChars, c) >= 0 || c == ' ':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return "$'" + b.String() + "'"
}

// wordChars are those that no shell makes anything of, wherever they stand.
const wordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@%+,"

// Remedy returns what a person can do about a failure, beside what its message says; empty where there is
// nothing to do.
func Remedy(f *provision.Failure) string {
	if f == nil {
		return ""
	}
	return remedies[f.Reason]
}

var remedies = map[provision.Reason]string{ // :: reason → what to do
	provision.ReasonInvalidRequest:   "Its sender has to correct it and send it under a new id: every violation is named in the message.",
	provision.ReasonPlaintextSecret:  "A token was sent in the clear. Have it revoked, put a new one into Vault, and send the request with a reference to it, under a new id.",
	provision.ReasonSecretForbidden:  "The secret may not be used so. Its owner can change the secret's own field “domain”, or the sender the reference; then retry it.",
	provision.ReasonSecretNotFound:   "Put the secret where the reference points to, under the tenant's own prefix in Vault, then retry it.",
	provision.ReasonTenantUnknown:    "Write the tenant's “adobe” secret to Vault, then retry it.",
	provision.ReasonIDReused:         "Its sender has to give every request an id of its own.",
	provision.ReasonNameExists:       "Use the connection that is there, or send the request with another name, under a new id.",
	provision.ReasonFlowRejected:     "Adobe refused the request as it is. Mend what the message names, at Databricks or in the secret, then retry it; if it is in the request itself, send a corrected one under a new id.",
	provision.ReasonFlowDenied:       "Adobe refused the tenant's credentials or their rights. Mend the “adobe” secret or the rights in the Admin Console, then retry it.",
	provision.ReasonFlowUnavailable:  "The Flow Service did not take it before its deadline. When it is well again, retry it.",
	provision.ReasonVaultUnavailable: "Vault did not answer before the deadline, or denied the worker. Mend that (worker doctor tells what it is), then retry it.",
	provision.ReasonOutcomeUnknown:   "Retry it, which looks for its connection once more. Where that can't tell either, look in the sandbox yourself, as the message says, and settle it with resolve.",
	provision.ReasonExpired:          "It was too late when it was first seen. Retry it if it is still wanted: a retry knows no expirytime.",
	provision.ReasonCrashLoop:        "Workers died while they worked on it. Read their logs before you retry it.",
	provision.ReasonInternal:         "A bug in flow-worker stopped it. Search the worker's log for the log id in the message, and report it.",
}
