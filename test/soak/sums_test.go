//go:build soak

package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// sums is what a run came to. Each list names the requests, or connections, it happened to.
type sums struct {
	outcomes map[string]int // :: outcome or reason → requests

	duplicates    []string // marks that more than one connection carries
	lost          []string // requests without a result
	contradictory []string // more than one outcome, repeats that differ, or a result that the Flow Service belies
	orphans       []string // connections that no result names
	unexpected    []string // outcomes that were not to be

	culprits map[provision.Key]bool
}

// sum compares what was asked, what was told, and what the Flow Service has.
func (w *world) sum(asks []*ask) *sums {
	s := &sums{outcomes: map[string]int{}, culprits: map[provision.Key]bool{}, contradictory: w.told.complaints()}
	byMark := map[string]*ask{}
	named := map[string]bool{} // :: id of a connection that a result names
	made := map[string]flowtest.Stored{}
	for _, c := range w.flow.Connections() {
		made[c.ID] = c
	}
	for _, a := range asks {
		byMark[a.key.Mark()] = a
		s.judge(w, a, made, named)
	}
	for mark, ids := range w.flow.Marks() {
		if len(ids) > 1 {
			s.blame(&s.duplicates, byMark[mark], "%s: %q", mark, ids)
		}
	}
	for id, c := range made {
		if a := byMark[markOf(c)]; !named[id] && !w.toldUnknown(a) {
			s.blame(&s.orphans, a, "connection %s %q", id, c.Description)
		}
	}
	return s
}

// judge takes in what one request was told.
func (s *sums) judge(w *world, a *ask, made map[string]flowtest.Stored, named map[string]bool) {
	own, reused := w.told.outcomes(a.key)
	switch {
	case len(own) == 0:
		s.blame(&s.lost, a, "%s: no result", a.key)
		return
	case a.reused && len(reused) == 0:
		s.blame(&s.lost, a, "%s: no result of the message with other data", a.key)
	case len(own) > 1:
		s.blame(&s.contradictory, a, "%s: %d outcomes: %+v", a.key, len(own), own)
	}
	r := own[0]
	got := outcomeOf(r)
	s.outcomes[got]++
	if got != a.want && got != string(provision.ReasonCrashLoop) { // which is a kill's fair outcome
		s.blame(&s.unexpected, a, "%s: %s, want %s: %v", a.key, got, a.want, r.Error)
	}
	for _, r := range own {
		if r.Connection == nil {
			continue
		}
		named[r.Connection.ID] = true
		if c, ok := made[r.Connection.ID]; !ok || markOf(c) != a.key.Mark() || c.OrgID != orgOf(a.key.Tenant) || c.Name != r.Name {
			s.blame(&s.contradictory, a, "%s: its result names connection %s, which is not its own: %+v", a.key, r.Connection.ID, c)
		}
	}
}

func (s *sums) blame(list *[]string, a *ask, format string, args ...any) {
	*list = append(*list, fmt.Sprintf(format, args...))
	if a != nil {
		s.culprits[a.key] = true
	}
}

func markOf(c flowtest.Stored) string {
	if i := strings.Index(c.Description, provision.MarkPrefix); i >= 0 {
		return c.Description[i:]
	}
	return ""
}

// toldUnknown reports whether somebody was told to look for the connection.
func (w *world) toldUnknown(a *ask) bool {
	if a == nil {
		return false
	}
	own, _ := w.told.outcomes(a.key)
	return slices.ContainsFunc(own, func(r provision.Result) bool { return outcomeOf(r) == string(provision.ReasonOutcomeUnknown) })
}

// row is a line of the table.
type row struct {
	name  string
	value any
}

// table is what was done, then what became of it.
func (s *sums) table(w *world, asks []*ask, more ...row) string {
	mails := 0
	for _, a := range asks {
		mails += len(a.mails)
	}
	restarts := 0
	for _, b := range w.brokers {
		restarts += b.starts - 1
	}
	rows := slices.Concat([]row{
		{"requests", len(asks)}, {"messages", mails},
		{"kill -9 of a worker", w.fleet.kills}, {"freezes", w.fleet.freezes}, {"broker restarts", restarts},
		{"faults injected", w.struck + w.striking()}, {"POSTs seen", w.flow.Count(flowtest.OpCreate)},
		{"look-ups seen", w.flow.Count(flowtest.OpList)}, {"connections made", len(w.flow.Connections())}, {"outcomes", s.outcomes},
	}, more, []row{
		{"duplicates", len(s.duplicates)}, {"lost", len(s.lost)}, {"contradictory", len(s.contradictory)},
		{"orphans", len(s.orphans)}, {"unexpected", len(s.unexpected)},
	})
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(tw, "  %s\t%v\n", r.name, r.value)
	}
	_ = tw.Flush() // a Builder takes everything
	return b.String()
}

// conclude ends the workers, prints the table and fails the test unless all is well.
func (w *world) conclude(ctx context.Context, asks []*ask, more ...row) *sums {
	w.t.Helper()
	w.fleet.endAll(ctx)
	s := w.sum(asks)
	w.t.Logf("%s, seed %d:\n%s", w.t.Name(), w.seed, s.table(w, asks, more...))
	for what, list := range map[string][]string{"duplicates": s.duplicates, "lost": s.lost,
		"contradictory": s.contradictory, "orphans": s.orphans, "unexpected": s.unexpected} {
		if len(list) > 0 {
			w.t.Errorf("seed %d: %d %s:\n\t%s", w.seed, len(list), what, strings.Join(list[:min(len(list), 10)], "\n\t"))
		}
	}
	shown := 0
	for key := range s.culprits {
		if shown++; shown > 5 {
			break
		}
		w.t.Logf("the story of %s:\n%s", key, w.story(ctx, key))
	}
	return s
}

// story tells all that is known of a request: ledger, Flow Service and the workers' logs.
func (w *world) story(ctx context.Context, key provision.Key) string {
	var b strings.Builder
	book, err := ledger.Open(ctx, w.js, ledger.Config{})
	if err == nil {
		var rec provision.Record
		if rec, _, err = book.Load(ctx, key); err == nil {
			text, _ := json.MarshalIndent(rec, "\t", "  ") // a record is made of plain values
			fmt.Fprintf(&b, "  ledger:\n\t%s\n", text)
		}
	}
	if err != nil {
		fmt.Fprintf(&b, "  ledger: %v\n", err)
	}
	fmt.Fprintln(&b, "  Flow Service:")
	for _, r := range w.flow.Requests() {
		if strings.Contains(string(r.Body), key.Mark()) {
			fmt.Fprintf(&b, "\t%s POST, answered %d\n", r.At.UTC().Format(time.RFC3339Nano), r.Status)
		}
	}
	for _, c := range w.flow.Connections() {
		if markOf(c) == key.Mark() {
			fmt.Fprintf(&b, "\t%s connection %s\n", c.CreatedAt.UTC().Format(time.RFC3339Nano), c.ID)
		}
	}
	for _, p := range w.fleet.everyone() {
		for _, line := range p.log.about(key.ID, 30) {
			fmt.Fprintf(&b, "  %s: %s\n", p.name, line)
		}
	}
	return b.String()
}
