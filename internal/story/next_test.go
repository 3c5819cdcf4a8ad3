package story_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

func failedWith(r provision.Reason) *provision.FinalResult {
	return &provision.FinalResult{Result: provision.Result{Error: provision.Fail(r, "no"), CompletedAt: at(9)}}
}

func TestWhatNext(t *testing.T) {
	t.Parallel()
	rested := []provision.Attempt{{At: at(1), Step: "handback", Result: "waiting", Detail: "for 30s"}}
	posting := provision.Record{State: provision.StatePosting, PostedAt: at(0), Lease: 75 * time.Second, Held: true, HeldUntil: at(500)}
	for name, tc := range map[string]struct {
		rec  provision.Record
		now  time.Time
		text string // part of it
		at   time.Time
	}{
		"created":          {provision.Record{Final: &provision.FinalResult{}}, at(9), "nothing: it is done", time.Time{}},
		"failed for now":   {provision.Record{Final: failedWith(provision.ReasonVaultUnavailable)}, at(9), "may well succeed", time.Time{}},
		"failed for good":  {provision.Record{Final: failedWith(provision.ReasonFlowRejected)}, at(9), "fails again until", time.Time{}},
		"posting":          {posting, at(9), "answer to the POST", at(75)},
		"posting too long": {posting, at(80), "looks up whether", at(85)},
		"posting for ever": {posting, at(90), "as soon as the queue delivers it", at(85)},
		"rests":            {provision.Record{State: provision.StateWaiting, Posts: 1, Attempts: rested}, at(9), "rests in the queue, then sends the POST again", at(31)},
		"rested":           {provision.Record{State: provision.StateUnknown, Attempts: rested}, at(40), "is due: the next free worker looks up", at(31)},
		"waits for a secret": {provision.Record{State: provision.StateClaimed, Missing: &provision.Missing{}, Attempts: rested}, at(9),
			"rests in the queue, then reads the missing secret again", at(31)},
		"rests oddly": {provision.Record{State: provision.StateClaimed, Attempts: []provision.Attempt{{At: at(1), Step: "handback", Detail: "for ever"}}},
			at(9), "the next free worker gets the secrets", time.Time{}},
		"told to wait": {provision.Record{State: provision.StateWaiting, Posts: 2, Held: true, HeldUntil: at(500), NotBefore: at(20)}, at(9), "waits", at(20)},
		"in hand":      {provision.Record{State: provision.StateUnknown, Held: true, HeldUntil: at(500)}, at(9), "has it in hand and looks up", time.Time{}},
		"looked first": {provision.Record{State: provision.StateClaimed, Held: true, HeldUntil: at(500), LookFirst: true}, at(9), "is there already", time.Time{}},
		"vanished":     {provision.Record{State: provision.StateClaimed, Held: true, HeldUntil: at(5)}, at(9), "no sign of life", at(5)},
		"parked":       {provision.Record{State: provision.StateClaimed}, at(9), "the next free worker", time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := story.WhatNext(tc.rec, tc.now)
			if !strings.Contains(got.Text, tc.text) || !got.At.Equal(tc.at) {
				t.Errorf("got %q at %v, want %q at %v", got.Text, got.At, tc.text, tc.at)
			}
		})
	}
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	rec := provision.Record{
		State: provision.StateFailed, Retry: 1, Owner: "w-2", RequestedAt: at(10), Final: failedWith(provision.ReasonFlowRejected),
		Attempts: []provision.Attempt{
			{At: at(1), Owner: "w-1", Step: "claim", Result: "claimed"},
			{At: at(2), Owner: "w-1", Step: "post", Result: "throttled", Detail: "flow: HTTP 429", Elapsed: 1.5},
			{At: at(3), Owner: "w-1", Step: "handback", Result: "waiting", Detail: "for 2s"},
			{At: at(6), Owner: "w-1", Step: "final", Result: "failed", Detail: "flow_denied"},
			{At: at(11), Owner: "w-2", Retry: 1, Step: "verify", Result: "ok"},
			{At: at(9), Owner: "w-2", Retry: 1, Step: "final", Result: "failed", Detail: "flow_rejected"},
		},
	}
	rec.Final.Result.CompletedAt = at(12)
	want := []story.Event{
		{At: at(1), Worker: "w-1", Text: "taken up by a worker"},
		{At: at(2), Worker: "w-1", Tone: story.Odd, Text: "throttled; waiting as long as the Flow Service asks", Detail: "flow: HTTP 429", Took: 1500 * time.Millisecond},
		{At: at(3), Worker: "w-1", Text: "given back to the stream, to rest until 03:00:05Z"},
		{At: at(6), Worker: "w-1", Tone: story.Bad, Text: "failed", Detail: "flow_denied"},
		{At: at(10), Retry: 1, Text: "entered the stream again, as retry 1"},
		{At: at(11), Retry: 1, Worker: "w-2", Text: "verify: ok"},
		{At: at(12), Retry: 1, Worker: "w-2", Tone: story.Bad, Text: "failed: flow_rejected", Detail: "no"},
	}
	if diff := cmp.Diff(want, story.Timeline(rec)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	rec = provision.Record{State: provision.StatePosting, Owner: "w", RequestedAt: at(0), PostedAt: at(1), Posts: 2}
	if got := story.Timeline(rec); len(got) != 2 || got[1].Text != "POST 2 is announced in the ledger and sent" {
		t.Errorf("under way: %+v", got)
	}
	for detail, want := range map[string]string{"": "with this request's mark; adopted", "ifExists": "it is there; adopted",
		"on the word of ada; it is there, without a mark":                         "it is there; adopted", // as older workers wrote it
		"on the word of a message said to be by ada; it is there, without a mark": "it is there; adopted"} {
		rec := provision.Record{Attempts: []provision.Attempt{{Step: "lookup", Result: "adopted", Detail: detail}}}
		if got := story.Timeline(rec)[0]; !strings.HasSuffix(got.Text, want) || got.Tone != story.Good {
			t.Errorf("%q: %+v", detail, got)
		}
	}
	if got := story.Timeline(provision.Record{}); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
}

// What can be typed about a request follows from how it stands.
func TestCommands(t *testing.T) {
	t.Parallel()
	key := provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}
	all := map[string]provision.Record{"open": {Key: key}, "created": {Key: key, Final: &provision.FinalResult{}}}
	for _, r := range provision.Reasons {
		all[string(r)] = provision.Record{Key: key, Final: failedWith(r)}
		if story.Remedy(all[string(r)].Final.Result.Error) == "" {
			t.Errorf("%s: no remedy", r)
		}
	}
	first := map[string]string{ // :: case → how its first command begins
		"open": "worker status --tenant acme --source /portal --watch r-1", "created": "worker status --tenant acme --source /portal r-1",
		"outcome_unknown": "worker retry", "invalid_request": "worker status", "plaintext_secret": "worker status", "id_reused": "worker status",
		"vault_unavailable": "worker retry", "flow_rejected": "worker retry",
	}
	for name, rec := range all {
		list := story.Commands(rec)
		if want := first[name]; want != "" && !strings.HasPrefix(list[0].Line, want) {
			t.Errorf("%s: first is %q, want %q", name, list[0].Line, want)
		}
		for _, c := range list {
			if c.Does == "" || !strings.Contains(c.Line, "--tenant acme") {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if !slices.ContainsFunc(list, func(c story.Command) bool { return strings.HasPrefix(c.Line, "worker status ") }) {
			t.Errorf("%s: no status", name)
		}
	}
	if story.Remedy(nil) != "" {
		t.Error("a remedy for nothing")
	}
}

// A name that others chose stays one word, and can't hide what is typed.
func TestWord(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"r-1": "r-1", "/portal/on:boarding": "/portal/on:boarding", "": "''", "a b": "'a b'", "$(reboot)": "'$(reboot)'",
		"it's": `'it'\''s'`, "a;b": "'a;b'", "=ls": "'=ls'", "~": "'~'", "日本": "'日本'",
		"a\n'b": `$'a\x0a\x27b'`, "\u202eab c": `$'\xe2\x80\xaeab c'`, "\xff": `$'\xff'`, "a\tü": `$'a\x09\xc3\xbc'`,
	} {
		if got := story.Word(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	unknown := story.Commands(provision.Record{Key: provision.Key{Tenant: "acme", Source: "s", ID: "r"}, Final: failedWith(provision.ReasonOutcomeUnknown)})
	if want := "worker resolve --tenant acme --source s --absent --reason WHY r"; unknown[2].Line != want {
		t.Errorf("got %s, want %s", unknown[2].Line, want)
	}
	list := story.Commands(provision.Record{Key: provision.Key{Tenant: "acme", Source: "a b", ID: "--yes"}, Final: failedWith(provision.ReasonExpired)})
	if want := "worker retry --tenant acme --source 'a b' --dry-run -- --yes"; list[0].Line != want {
		t.Errorf("got %s, want %s", list[0].Line, want)
	}
}
