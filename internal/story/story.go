// Package story tells people what happened to a request, from its ledger record.
//
// A record holds no secret's value, so neither does anything here.
package story

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Tone says how a line is meant.
type Tone int

// The tones.
const (
	Plain Tone = iota
	Good
	Bad
	Odd // unusual, but being dealt with
)

// Line is one thing that happened.
type Line struct {
	At   time.Time
	Tone Tone
	Text string
}

// News returns what happened between two versions of a record, in order. An old record without a key
// means that there was none.
func News(old, rec provision.Record) []Line {
	lines := linesOf(newAttempts(old, rec))
	if rec.State == provision.StatePosting && !rec.PostedAt.Equal(old.PostedAt) {
		lines = append(lines, Line{rec.PostedAt, Plain, fmt.Sprintf("POST %d is announced in the ledger and sent", rec.Posts)})
	}
	if rec.Final != nil && (old.Final == nil || old.Final.EventID != rec.Final.EventID) {
		lines = append(lines, Ending(rec.Final.Result))
	}
	return lines
}

// linesOf puts attempts into words: those that went alike one after another in one line, and the final
// one not at all, for Ending says more.
func linesOf(attempts []provision.Attempt) []Line {
	var lines []Line
	for i := 0; i < len(attempts); {
		a, n := attempts[i], 1
		for i+n < len(attempts) && attempts[i+n].Step == a.Step && attempts[i+n].Result == a.Result {
			n++
		}
		i += n
		if a.Step == "final" {
			continue
		}
		line := lineOf(a)
		if n > 1 {
			line.Text += fmt.Sprintf(" (%d times)", n)
		}
		lines = append(lines, line)
	}
	return lines
}

// newAttempts returns the attempts of rec that old did not have. Both keep only their latest ones.
func newAttempts(old, rec provision.Record) []provision.Attempt {
	if len(old.Attempts) == 0 {
		return rec.Attempts
	}
	last := old.Attempts[len(old.Attempts)-1]
	for i := len(rec.Attempts) - 1; i >= 0; i-- {
		if a := rec.Attempts[i]; a.At.Equal(last.At) && a.Step == last.Step && a.Result == last.Result {
			return rec.Attempts[i+1:]
		}
	}
	return rec.Attempts
}

// phrases say in words what steps came to.
var phrases = map[string]Line{ // :: step and result → tone and text
	"claim claimed":     {Text: "taken up by a worker"},
	"claim posting":     {Tone: Odd, Text: "taken over from a worker that vanished during a POST"},
	"claim unknown":     {Text: "taken up again, to learn what became of the POST"},
	"claim waiting":     {Text: "taken up again"},
	"post created":      {Tone: Good, Text: "the POST made the connection"},
	"post unknown":      {Tone: Odd, Text: "no answer to the POST: it may have made a connection, so it is looked up, not repeated"},
	"post not_sent":     {Tone: Odd, Text: "the POST was not sent"},
	"post throttled":    {Tone: Odd, Text: "throttled; waiting as long as the Flow Service asks"},
	"post not_ready":    {Tone: Odd, Text: "the Databricks cluster does not run yet"},
	"post unauthorized": {Tone: Odd, Text: "the Adobe token was refused; getting a fresh one"},
	"post denied":       {Tone: Bad, Text: "the Flow Service denied it"},
	"post rejected":     {Tone: Bad, Text: "the Flow Service rejected it"},
	"lookup adopted":    {Tone: Good, Text: "looked up: it is there, with this request's mark; adopted"},
	"lookup absent":     {Text: "looked up: it is not there, so a POST is safe"},
	"lookup not_yet":    {Text: "looked up: not there yet; looking on"},
	"lookup unknown":    {Tone: Odd, Text: "looked up, and nothing decided"},
	"resolve named":     {Text: "a message for its tenant named its connection"},
	"resolve absent":    {Text: "a message for its tenant said that the POST made none"},
	"handback claimed":  {Text: "given back to the stream, to rest"},
	"handback waiting":  {Text: "given back to the stream, to rest"},
	"handback unknown":  {Text: "given back to the stream, to be looked up later"},
	"flow status":       {Tone: Odd, Text: "the Flow Service fails"},
	"flow timeout":      {Tone: Odd, Text: "the Flow Service does not answer"},
	"flow network":      {Tone: Odd, Text: "the Flow Service can't be reached"},
	"flow throttled":    {Tone: Odd, Text: "the Flow Service throttles"},
	"flow denied":       {Tone: Bad, Text: "the Flow Service denied it"},
	"ims denied":        {Tone: Bad, Text: "Adobe's token service refused the tenant's credentials"},
	"ims rejected":      {Tone: Bad, Text: "Adobe's token service refused the tenant's credentials"},
	"ims unauthorized":  {Tone: Bad, Text: "Adobe's token service refused the tenant's credentials"},
	"ims status":        {Tone: Odd, Text: "Adobe's token service fails"},
	"ims timeout":       {Tone: Odd, Text: "Adobe's token service does not answer"},
	"ims network":       {Tone: Odd, Text: "Adobe's token service can't be reached"},
	"ims throttled":     {Tone: Odd, Text: "Adobe's token service throttles"},
	"vault status":      {Tone: Odd, Text: "Vault fails"},
	"vault timeout":     {Tone: Odd, Text: "Vault does not answer"},
	"vault network":     {Tone: Odd, Text: "Vault can't be reached"},
	"vault throttled":   {Tone: Odd, Text: "Vault throttles"},
	"secrets missing":   {Tone: Odd, Text: "a secret is missing, and may yet appear"},
}

// phraseOf says in words what an attempt came to, and whether there are words for it.
func phraseOf(a provision.Attempt) (Line, bool) {
	line, known := phrases[a.Step+" "+a.Result]
	if a.Step == "lookup" && a.Result == "adopted" && (a.Detail == "ifExists" || strings.HasPrefix(a.Detail, "on the word of ")) {
		line.Text = "looked up: it is there; adopted" // it carries no mark of ours
	}
	return line, known
}

func lineOf(a provision.Attempt) Line {
	line, known := phraseOf(a)
	if !known {
		line.Text = a.Step + ": " + a.Result
	}
	line.At = a.At
	if a.Detail != "" {
		line.Text += " (" + clip(a.Detail, 160) + ")"
	}
	return line
}

// clip shortens s to about most bytes.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xC0 == 0x80 { // not in the middle of a rune
		most--
	}
	return s[:most] + "…"
}

// Ending tells how a request ended.
func Ending(r provision.Result) Line {
	if r.Error != nil {
		return Line{r.CompletedAt, Bad, "failed: " + r.Error.Error()}
	}
	verb, id := "created", ""
	if r.Adopted {
		verb = "adopted"
	}
	if r.Connection != nil {
		id = " connection " + r.Connection.ID
	}
	return Line{r.CompletedAt, Good, verb + id}
}

// Outcome says in one word, or with its reason, where a request stands.
func Outcome(rec provision.Record) string {
	if rec.Final == nil {
		return string(rec.State)
	}
	switch r := rec.Final.Result; {
	case r.Error != nil:
		return "failed " + string(r.Error.Reason)
	case r.Adopted:
		return "adopted"
	default:
		return "created"
	}
}

// Head returns rows of name and value: the record without its attempts.
func Head(rec provision.Record) [][]string {
	rows := [][]string{
		{"request", rec.Key.ID}, {"tenant", rec.Key.Tenant}, {"source", rec.Key.Source},
		{"connection name", cmp.Or(rec.Name, "-")}, {"sandbox", cmp.Or(rec.Sandbox, "-")},
		{"state", Outcome(rec)}, {"POSTs", posts(rec)},
		{"entered the stream", stamp(rec.RequestedAt)},
	}
	if rec.Retry > 0 {
		rows = append(rows, []string{"retry", strconv.Itoa(rec.Retry)})
	}
	if rec.Final == nil {
		rows = append(rows, []string{"gives up", stamp(rec.Deadline)})
		if f := rec.LastFail; f != nil {
			rows = append(rows, []string{"in the way", f.Error()})
		}
		return rows
	}
	r := rec.Final.Result
	rows = append(rows, []string{"ended", stamp(r.CompletedAt) + ", after " + took(r.CompletedAt.Sub(r.RequestedAt))})
	if r.Connection != nil {
		rows = append(rows, []string{"connection", r.Connection.ID})
	}
	if r.Error != nil {
		rows = append(rows, []string{"message", r.Error.Message})
	}
	return rows
}

// posts says how many POSTs there were. A retry's count begins again, while the story goes on.
func posts(rec provision.Record) string {
	if rec.Retry > 0 {
		return strconv.Itoa(rec.Posts) + " of this retry"
	}
	return strconv.Itoa(rec.Posts)
}

// Queued returns rows of name and value for a request that no worker has taken up yet. The note may be
// empty.
func Queued(key provision.Key, entered time.Time, note string) [][]string {
	rows := [][]string{
		{"request", key.ID}, {"tenant", key.Tenant}, {"source", key.Source},
		{"state", "queued: no worker has taken it up yet"}, {"entered the stream", stamp(entered)},
	}
	if note != "" {
		rows = append(rows, []string{"in the way", note})
	}
	return rows
}

// Attempts returns a table of the record's attempts, with its header.
func Attempts(rec provision.Record) [][]string {
	rows := [][]string{{"AT", "RETRY", "STEP", "RESULT", "TOOK", "WORKER", "DETAIL"}}
	for _, a := range rec.Attempts {
		rows = append(rows, []string{stamp(a.At), strconv.Itoa(a.Retry), a.Step, a.Result,
			took(time.Duration(a.Elapsed * float64(time.Second))), cmp.Or(a.Owner, "-"), clip(a.Detail, 120)})
	}
	return rows
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

// Printable returns text that others wrote as a terminal may show it: what is not printable (control
// characters, what turns the direction of the text, what has no width) is written as in Go's quoted
// strings, so that nothing can pass for something else. Printable text stays as it is.
func Printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1, !strconv.IsPrint(r):
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// PrintableLines is Printable for text that may have several lines, as errors do. Each line but the
// first begins with a blank, so that none can pass for a message of its own; one that was made to looks
// like a part of what it is.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if lines[i] = Printable(line); i > 0 && !strings.HasPrefix(line, " ") {
			lines[i] = "  " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}
