package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// However many requests there are, a list has an end, and says what it leaves out.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	for i := range 105 {
		w.store(js, fmt.Sprintf("r-%03d", i), provision.StateUnknown, uint64(i+1))
	}
	for args, want := range map[string]struct {
		lines         int
		first, stderr string
	}{
		"list":                            {101, "TENANT", "leaves out 5 requests"},
		"list --limit 10":                 {11, "TENANT", "leaves out 95 requests"},
		"list --limit 0":                  {106, "TENANT", ""},
		"list --json --limit 3":           {3, `{"key":`, "leaves out 102 requests"},
		"list --stuck --limit 2":          {3, "TENANT", "leaves out 103 requests"},
		"list --older-than 2h":            {0, "", "no request matches"},
		"list --tenant acme --source /no": {0, "", "no request matches"},
	} {
		r := w.worker("", strings.Fields(args)...)
		if r.code != exitOK || strings.Count(r.stdout, "\n") != want.lines || !strings.HasPrefix(r.stdout, want.first) || !strings.Contains(r.stderr, want.stderr) {
			t.Errorf("%s: exit %d, %d lines:\n%s", args, r.code, strings.Count(r.stdout, "\n"), r.stderr)
		}
	}
	r := w.worker("", "list", "--limit", "1")
	if !strings.Contains(r.stdout, "r-104") {
		t.Errorf("not the latest:\n%s", r.stdout)
	}
}

// What waits for a target rests in any state that is none of an end: "open" finds them all.
func TestListByStandsAndEnds(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	for i, state := range provision.States {
		w.store(js, "is-"+string(state), state, uint64(i+1))
	}
	adopted := provision.Record{
		Key: provision.Key{Tenant: "acme", Source: "/s", ID: "is-adopted"}, State: provision.StateCreated, Nonce: "n",
		Final: &provision.FinalResult{EventID: "e", Outcome: "created", Result: provision.Result{Adopted: true}},
	}
	w.write(js, adopted)
	for states, want := range map[string]string{
		"open":            "claimed posting unknown waiting",
		"waiting":         "waiting",
		"adopted":         "adopted",
		"created":         "adopted created",
		"adopted,failed":  "adopted failed",
		"adopted,created": "adopted created",
		"open,adopted":    "adopted claimed posting unknown waiting",
	} {
		r := w.worker("", "list", "--state", states)
		ids := regexp.MustCompile(`is-(\w+)`).FindAllStringSubmatch(r.stdout, -1)
		var got []string
		for _, id := range ids {
			got = append(got, id[1])
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("--state %s: exit %d, got %q, want %q:\n%s%s", states, r.code, got, want, r.stdout, r.stderr)
		}
	}
}

// A request may end long after it was sent: --ended-within goes by the end, and so do order and --limit.
func TestListByEnd(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.worker("", "init")
	js := w.jetStream()
	now := time.Now()
	for id, at := range map[string]struct{ sent, ended time.Duration }{ // ago
		"is-lately": {25 * time.Hour, time.Minute}, "is-later": {time.Hour, 30 * time.Minute}, "is-earlier": {2 * time.Hour, 90 * time.Minute},
	} {
		w.write(js, provision.Record{
			Key: provision.Key{Tenant: "acme", Source: "/s", ID: id}, State: provision.StateFailed, Nonce: "n", RequestedAt: now.Add(-at.sent),
			Final: &provision.FinalResult{EventID: "e", Outcome: provision.OutcomeFailed, Result: provision.Result{CompletedAt: now.Add(-at.ended)}},
		})
	}
	w.store(js, "is-open", provision.StateUnknown, 1)
	for args, want := range map[string]string{
		"list --ended-within 1h":                               "later lately",
		"list --ended-within 2h":                               "earlier later lately",
		"list --ended-within 2h --limit 1":                     "lately",
		"list --ended-within 2h --older-than 3h":               "lately",
		"list --ended-within 1h --state failed":                "later lately",
		"list --ended-within 1h --state created":               "",
		"list --newer-than 3h --state failed --json":           "earlier later",
		"list --ended-within 2h --limit 2 --state open,failed": "later lately",
	} {
		r := w.worker("", strings.Fields(args)...)
		var got []string
		for _, id := range regexp.MustCompile(`is-(\w+)`).FindAllStringSubmatch(r.stdout, -1) {
			got = append(got, id[1])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: exit %d, got %q, want %q:\n%s%s", args, r.code, got, want, r.stdout, r.stderr)
		}
	}
}

// A row without a last value leaves the columns of the others alone.
func TestColumnsStayAligned(t *testing.T) {
	t.Parallel()
	var out safeBuffer
	if err := printRows(&out, [][]string{{"A", "B", "C"}, {"1", "2", ""}, {"long", "longer", "x"}}); err != nil {
		t.Fatal(err)
	}
	if want := "A     B       C\n1     2\nlong  longer  x\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
