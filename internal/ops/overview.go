package ops

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// What the pages show is made here, in the words and numbers that are shown: by the templates, and then
// by the same names in app.js as it changes. Whatever others wrote passes through text.

// frame is what both pages show at their top.
type frame struct {
	Title   string // of the browser's tab
	Version string
	Worker  string // which one this is
	Ready   string
	Tone    string // of Ready
	Uptime  string
	Now     string
	Alarm   string // what must not be missed; empty if all is well
	Remedy  string // what to do about it
	Loud    string // tone of the alarm
	Query   string // what was searched for
}

// overview is the first page.
type overview struct {
	frame
	Figures  []figure
	Chart    chart
	Targets  []targetRow
	Checks   []checkRow
	Work     []requestRow
	WorkNote string
	Filters  []filterLink
	Counted  string // what the numbers of Filters are of
	Rows     []requestRow
	RowsNote string
	Outcomes []requestRow // what this worker published last
	Stream   string       // where its changes come from
}

// figure is one number.
type figure struct{ Label, Value, Note, Tone string }

// chart is how many requests ended, in ten minutes. Done and Failed are paths.
type chart struct{ Done, Failed, Text, Top string }

type targetRow struct{ Name, State, Tone, Median, Slow, Calls, Error, ErrorAt, ErrorAgo string }

type checkRow struct{ Name, Result, Tone string }

type filterLink struct{ Label, Count, URL, Current string }

// requestRow is one request in a table.
type requestRow struct{ URL, ID, Tenant, Source, Name, State, Tone, At, Ago, Posts, What string }

// overview returns what the first page shows.
func (s *Status) overview(snap Snapshot, requests []Request, trouble string, c choice) overview {
	o := overview{frame: s.frame(snap), Figures: figures(snap), Chart: chartOf(snap.Bars), Targets: targetRows(snap),
		Checks: checkRows(snap.Health), Stream: c.url("/events"), Counted: filtersNote}
	o.Work, o.WorkNote = workRows(snap)
	o.Outcomes = outcomeRows(snap)
	o.Filters = filters(requests, c)
	o.Rows, o.RowsNote = listed(requests, c, snap.At)
	if trouble != "" {
		o.RowsNote = "The ledger can't be read: " + text(trouble)
	}
	return o
}

func (s *Status) frame(snap Snapshot) frame {
	f := frame{Title: "flow-worker", Version: text(s.Version), Worker: text(s.Instance), Ready: "Ready", Tone: "good",
		Uptime: length(time.Duration(snap.UptimeSeconds * float64(time.Second))), Now: stamp(snap.At)}
	var failing []string
	for _, c := range snap.Health.Checks {
		if !c.OK {
			failing = append(failing, text(c.Name+": "+c.Reason))
		}
	}
	switch {
	case !snap.Health.Ready:
		f.Title, f.Ready, f.Tone, f.Loud = "NOT READY · flow-worker", "Not ready", "bad", "bad"
		f.Alarm, f.Remedy = "NOT READY: "+strings.Join(failing, "; "), "worker doctor"
		if snap.Health.Paused {
			f.Title, f.Alarm = "PAUSED, NOT READY · flow-worker", "PAUSED, and "+f.Alarm
		}
	case snap.Health.Paused:
		f.Title, f.Ready, f.Tone, f.Loud = "PAUSED · flow-worker", "Paused", "odd", "odd"
		f.Alarm, f.Remedy = "PAUSED: no worker takes in requests"+resumes(snap.ResumesIn), "worker resume"
	}
	return f
}

// resumes says when a pause ends by itself. One that lasts for years has no end.
func resumes(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d <= 0 || d > 365*24*time.Hour {
		return ""
	}
	return "; the intake starts again by itself in " + length(d)
}

func figures(snap Snapshot) []figure {
	list := []figure{{Label: "Queued", Value: "?", Note: text(snap.QueueError)}, {Label: "Oldest waiting", Value: "?", Note: ""}}
	if q := snap.Queue; q != nil {
		list[0].Value, list[0].Note = number(q.Pending), "not yet delivered"
		list[1].Value, list[1].Note = length(time.Duration(q.OldestSeconds*float64(time.Second))), "since it entered the stream"
		if q.Pending == 0 && q.AckPending == 0 {
			list[1].Value, list[1].Note = "–", "nothing waits"
		}
	}
	flight := figure{Label: "In flight", Value: number(snap.InFlightTotal), Note: "in this worker"}
	if q := snap.Queue; q != nil {
		flight.Note = fmt.Sprintf("here; %s at work or resting in all", number(max(q.AckPending, uint64(snap.InFlightTotal)))) // the queue was asked a while ago
	}
	failed := figure{Label: "Failed", Value: number(snap.Failed), Note: "by this worker"}
	if snap.Failed > 0 {
		failed.Tone = "bad"
	}
	return []figure{list[0], flight, {Label: "Done", Value: number(snap.Done), Note: "by this worker"}, failed,
		{Label: "Per second", Value: strconv.FormatFloat(snap.PerSecond, 'f', 1, 64), Note: "over the last minute"}, list[1]}
}

// Size of the chart, in its own units.
const (
	chartWidth  = 600
	chartHeight = 60
)

func chartOf(bars []Bar) chart {
	top, done, failed := 0, 0, 0
	for _, b := range bars {
		top, done, failed = max(top, b.Done+b.Failed), done+b.Done, failed+b.Failed
	}
	var c chart
	width := chartWidth / max(len(bars), 1)
	for i, b := range bars {
		ok, bad := height(b.Done, top), height(b.Failed, top)
		if ok > 0 {
			c.Done += fmt.Sprintf("M%d %dv-%dh%dv%dz", i*width+1, chartHeight, ok, width-2, ok)
		}
		if bad > 0 {
			c.Failed += fmt.Sprintf("M%d %dv-%dh%dv%dz", i*width+1, chartHeight-ok, bad, width-2, bad)
		}
	}
	c.Text = fmt.Sprintf("In the last ten minutes %s ended well and %s failed.", number(done), number(failed))
	c.Top = fmt.Sprintf("highest bar: %s in 10 s", number(top))
	return c
}

// height returns how high a bar is. What is there is seen.
func height(n, top int) int {
	if n == 0 {
		return 0
	}
	return max(n*chartHeight/top, 2)
}

// targetNames are for people.
var targetNames = map[provision.Target]string{ // :: target → its name
	provision.TargetFlow: "Flow Service", provision.TargetIMS: "Adobe IMS", provision.TargetVault: "Vault",
}

func targetRows(snap Snapshot) []targetRow {
	states := map[provision.Target]Breaker{}
	for _, b := range snap.Breakers {
		states[b.Target] = b
	}
	var rows []targetRow
	for _, t := range snap.Targets {
		row := targetRow{Name: cmp.Or(targetNames[t.Target], string(t.Target)), Calls: number(t.Calls), Error: text(t.LastError),
			ErrorAt: machine(t.LastErrorAt), ErrorAgo: ago(snap.At, t.LastErrorAt)}
		row.State, row.Tone = targetState(t, states[t.Target])
		if t.Calls > 0 {
			row.Median, row.Slow = milliseconds(t.MedianMillis), milliseconds(t.SlowMillis)
		}
		if t.Failed > 0 {
			row.Calls += fmt.Sprintf(", %s failed", number(t.Failed))
		}
		rows = append(rows, row)
	}
	return rows
}

// targetState says in words what a target does, and how that is to be taken.
func targetState(t Target, b Breaker) (words, tone string) {
	switch {
	case b.State != "" && b.State != "closed":
		return text("circuit " + b.State + ": left alone"), "bad"
	case t.Calls == 0:
		return "not asked lately", ""
	case t.Failed == t.Calls:
		return "fails", "bad"
	case t.Failed > 0:
		return "answers, not always", "odd"
	}
	return "answers", "good"
}

func milliseconds(ms float64) string { return took(time.Duration(ms * float64(time.Millisecond))) }

func checkRows(r Report) []checkRow {
	var rows []checkRow
	for _, c := range r.Checks {
		row := checkRow{text(c.Name), "ok", "good"}
		if !c.OK {
			row.Result, row.Tone = text(c.Reason), "bad"
		}
		rows = append(rows, row)
	}
	return rows
}

// maxWork is how many requests in flight are shown.
const maxWork = 10

func workRows(snap Snapshot) (rows []requestRow, note string) {
	for _, f := range snap.InFlight[:min(len(snap.InFlight), maxWork)] {
		row := requestRow{URL: storyURL(f.Key), ID: text(f.Key.ID), Tenant: text(f.Key.Tenant), Source: text(f.Key.Source),
			State: cmp.Or(stateNames[f.State], text(string(f.State)), "taken up"), Tone: stateTones[f.State], At: machine(f.Since), Ago: length(snap.At.Sub(f.Since))}
		rows = append(rows, row)
	}
	switch more := snap.InFlightTotal - len(rows); {
	case snap.InFlightTotal == 0:
		note = "Nothing is in flight in this worker."
	case more > 0:
		note = fmt.Sprintf("and %s more, younger ones", number(more))
	}
	return rows, note
}

// stateNames are for people; stateTones how they look.
var (
	stateNames = map[provision.State]string{ // :: state → its name
		provision.StateClaimed: "taken up", provision.StatePosting: "posting", provision.StateUnknown: "looked up",
		provision.StateWaiting: "waiting", provision.StateCreated: "created", provision.StateFailed: "failed",
	}
	stateTones = map[provision.State]string{ // :: state → tone; none for what goes as it should
		provision.StateUnknown: "odd", provision.StateWaiting: "odd", provision.StateCreated: "good", provision.StateFailed: "bad",
	}
)

// maxShownOutcomes is how many outcomes are shown.
const maxShownOutcomes = 10

func outcomeRows(snap Snapshot) []requestRow {
	rows := make([]requestRow, 0, maxShownOutcomes)
	for _, c := range snap.Outcomes[:min(len(snap.Outcomes), maxShownOutcomes)] {
		state := provision.StateCreated
		if c.Outcome == provision.OutcomeFailed {
			state = provision.StateFailed
		}
		row := rowOf(Request{Key: c.Key, State: state, Adopted: c.Adopted, Reason: c.Reason, Connection: c.Connection, Hindrance: c.Message,
			Posts: c.Attempts, UpdatedAt: c.At}, snap.At)
		if c.Repeat {
			row.State += ", published again"
		}
		rows = append(rows, row)
	}
	return rows
}

// storyURL returns where a request's story is. A key has no characters that a URL gives a meaning to.
func storyURL(k provision.Key) string { return "/requests/" + k.String() }

func rowOf(r Request, now time.Time) requestRow {
	row := requestRow{URL: storyURL(r.Key), ID: text(r.Key.ID), Tenant: text(r.Key.Tenant), Source: text(r.Key.Source), Name: text(r.Name),
		At: machine(r.UpdatedAt), Ago: ago(now, r.UpdatedAt),
		Posts: number(r.Posts), What: text(r.Hindrance)}
	row.State, row.Tone = pill(r)
	switch {
	case r.Reason != "":
		row.What = text(string(r.Reason) + ": " + r.Hindrance)
	case r.Connection != "":
		row.What = "connection " + text(r.Connection)
	}
	return row
}

// pill says in a word or two where a request stands, and how that is to be taken.
func pill(r Request) (words, tone string) {
	switch {
	case r.Adopted:
		return "adopted", "good"
	case r.heldUp():
		return "held up", "odd"
	}
	return cmp.Or(stateNames[r.State], text(string(r.State))), stateTones[r.State]
}

// heldUp reports whether something was in the way before the first POST.
func (r Request) heldUp() bool { return r.State == provision.StateClaimed && r.Hindrance != "" }

// group is a choice of states to list.
type group struct {
	name, label string
	states      []provision.State // empty means all
}

var groups = []group{
	{"", "All latest", nil},
	{"open", "Not ended", []provision.State{provision.StateClaimed, provision.StatePosting, provision.StateUnknown, provision.StateWaiting}},
	{"unknown", "Looked up", []provision.State{provision.StateUnknown}},
	{"waiting", "Waiting or held up", []provision.State{provision.StateWaiting}},
	{"failed", "Failed", []provision.State{provision.StateFailed}},
	{"created", "Created", []provision.State{provision.StateCreated}},
}

func (g group) has(r Request) bool {
	return len(g.states) == 0 || slices.Contains(g.states, r.State) || g.name == "waiting" && r.heldUp()
}

// choice is what is to be listed, as the query of the page's URL says.
type choice struct{ group, tenant string }

// choiceOf returns the choice, or what is wrong with it: to show all instead would pass for an answer.
func choiceOf(q url.Values) (c choice, trouble string) {
	c = choice{group: q.Get("state"), tenant: q.Get("tenant")}
	if !slices.ContainsFunc(groups, func(g group) bool { return g.name == c.group }) {
		var names []string
		for _, g := range groups[1:] {
			names = append(names, "state="+g.name)
		}
		return choice{}, "state=" + text(shorten(c.group, maxShown)) + " is none. There are " + strings.Join(names, ", ") + "."
	}
	if c.tenant != "" && !provision.ValidTenant(c.tenant) {
		return choice{}, "tenant=" + text(shorten(c.tenant, maxShown)) + " is none: a tenant has 1 to 63 of a-z, 0-9, _ and -."
	}
	return c, ""
}

// maxShown is how many bytes are shown of what somebody asked for.
const maxShown = 80

// filtersNote says what the numbers beside the filters count.
var filtersNote = fmt.Sprintf("Counted are only the latest requests, of each state at most %d.", maxPerState)

// maxListed is how many requests are shown.
const maxListed = 50

// listed returns the rows of what was chosen, and a word on what is not among them.
func listed(requests []Request, c choice, now time.Time) (rows []requestRow, note string) {
	g := groups[slices.IndexFunc(groups, func(g group) bool { return g.name == c.group })]
	matching := 0
	for _, r := range requests {
		if !g.has(r) || c.tenant != "" && r.Key.Tenant != c.tenant {
			continue
		}
		if matching++; matching <= maxListed {
			rows = append(rows, rowOf(r, now))
		}
	}
	switch {
	case matching == 0:
		note = "None among the requests that were written lately."
	case matching > maxListed:
		note = fmt.Sprintf("These are the latest %d. A search by id finds every request of the last 30 days, and so does worker list.", maxListed)
	}
	return rows, note
}

// filters returns the links by which states are chosen, with how many requests each would show.
func filters(requests []Request, c choice) []filterLink {
	links := make([]filterLink, len(groups))
	for i, g := range groups {
		n := 0
		for _, r := range requests {
			if g.has(r) && (c.tenant == "" || r.Key.Tenant == c.tenant) {
				n++
			}
		}
		links[i] = filterLink{Label: g.label, Count: number(n), URL: choice{g.name, c.tenant}.url("/")}
		if g.name == c.group {
			links[i].Current = "true"
		}
	}
	return links
}

// near returns those of the requests that have the text in their id, name or connection.
func near(requests []Request, query string, now time.Time) (rows []requestRow) {
	query = strings.ToLower(query)
	for _, r := range requests {
		for _, in := range []string{r.Key.ID, r.Name, r.Connection} {
			if strings.Contains(strings.ToLower(in), query) {
				rows = append(rows, rowOf(r, now))
				break
			}
		}
	}
	return rows[:min(len(rows), maxFound)]
}

// url returns the page that shows the choice.
func (c choice) url(page string) string {
	q := url.Values{}
	if c.group != "" {
		q.Set("state", c.group)
	}
	if c.tenant != "" {
		q.Set("tenant", c.tenant)
	}
	if len(q) == 0 {
		return page
	}
	return page + "?" + q.Encode()
}

// text returns what others wrote as it is shown: what does not print is written as in Go's strings, so
// that nothing can pass for something else, or turn the text around it.
func text(s string) string { return story.Printable(s) }

// stamp formats a time for people; empty if there is none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// machine formats a time for programs; empty if there is none.
func machine(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ago formats how long before now t was, in one or two units, or how long after it is.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return ""
	case d < -time.Second:
		return "in " + length(-d)
	case d < 5*time.Second:
		return "just now"
	default:
		return length(d) + " ago"
	}
}

// length formats a duration in one or two units.
func length(d time.Duration) string {
	d = max(d, 0)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min %d s", minutes, seconds)
	case d >= time.Second:
		return fmt.Sprintf("%d s", seconds)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

// took formats how long something took; empty if it took no time.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Millisecond:
		return "<1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return length(d)
}

// number formats n with its thousands apart.
func number[N int | uint64](n N) string {
	digits := strconv.FormatUint(uint64(n), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}
