package demo

import (
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/flow-worker/flow-worker/internal/story"
)

// The colours of tones.
var colours = map[story.Tone]string{ // :: tone → ANSI sequence
	story.Good: "\x1b[32m",
	story.Bad:  "\x1b[31m",
	story.Odd:  "\x1b[33m",
}

const colourOff = "\x1b[0m"

func (d *demo) paint(tone story.Tone, text string) string {
	if c := colours[tone]; d.Colours && c != "" {
		return c + text + colourOff
	}
	return text
}

// printf prints for people; with JSON it prints nothing.
func (d *demo) printf(format string, args ...any) {
	if d.JSON {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.Out, format, args...)
}

func (d *demo) hello() {
	d.printf("worker demo: a NATS server, a Vault, a Flow Service and the worker, all in this process.\n" +
		"Nothing is installed, and nothing leaves this machine.\n\n")
}

func (d *demo) ready() {
	d.printf("%s  the worker is ready: NATS at %s, Vault at %s, Flow Service at %s\n", d.elapsed(time.Now()),
		d.world.nats.ClientURL(), d.world.vaultAt.URL, d.world.flowAt.URL)
}

func (d *demo) submitting(n int) {
	d.printf("%s  submitting %d requests; two of them fail on purpose\n\n", d.elapsed(time.Now()), n)
}

// elapsed writes how long after the start of the demo t was.
func (d *demo) elapsed(t time.Time) string {
	return fmt.Sprintf("%6.2fs", max(t.Sub(d.started), 0).Seconds())
}

// line prints what others wrote, the Flow Service for one, as a terminal may show it.
func (d *demo) line(label string, l story.Line) {
	d.printf("%s  %-9s  %s\n", d.elapsed(l.At), story.Printable(label), d.paint(l.Tone, story.Printable(l.Text)))
}

// verdict keeps a sample's verdict, and prints it at once with JSON.
func (d *demo) verdict(i int, v verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verdicts[i] = v
	if d.JSON {
		_ = json.NewEncoder(d.Out).Encode(v) // a reader that has gone needs nothing
	}
}

// conclude prints the table of results and where to look next.
func (d *demo) conclude() error {
	expected := 0
	for _, v := range d.verdicts {
		if v.OK {
			expected++
		}
	}
	if !d.JSON {
		d.table()
		d.printf("\n%d of %d samples ended as expected.\n", expected, len(d.verdicts))
		if !d.Once {
			d.next()
		}
	}
	if expected < len(d.verdicts) {
		return ErrUnexpected
	}
	return nil
}

func (d *demo) table() {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.Out)
	w := tabwriter.NewWriter(d.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SAMPLE\tTENANT\tEXPECTED\tGOT\tPOSTS\tCONNECTIONS\tTOOK\t")
	for _, v := range d.verdicts {
		tone, mark := story.Good, "as expected"
		if !v.OK {
			tone, mark = story.Bad, "NOT as expected: "+v.Problem
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", story.Printable(v.Sample), story.Printable(v.Tenant), story.Printable(v.Want),
			story.Printable(v.Got), v.POSTs, v.Made, strconv.FormatFloat(v.Seconds, 'f', 2, 64)+"s", d.paint(tone, story.Printable(mark)))
	}
	_ = w.Flush() // as above
}

func (d *demo) next() {
	trickle := ""
	if d.Trickle > 0 {
		trickle = fmt.Sprintf(", and so do requests, every %v", d.Trickle)
	}
	d.printf(`
The worker keeps running%[7]s. Where to look next:
  status page   http://%[1]s/
  readiness     http://%[2]s/readyz
  metrics       http://%[2]s/metrics
  connections   %[3]s/_emulator/connections
  NATS          %[4]s

Submit a request of your own (tenants acme and globex are there; edit the file as you like):
  %[5]s submit --nats-url %[4]s --tenant acme --wait %[6]s

See the story of the one whose answer was lost:
  %[5]s status --nats-url %[4]s demo-lost

Ctrl-C ends the demo and removes everything.
`, d.at.Status, d.at.HTTP, d.world.flowAt.URL, d.world.nats.ClientURL(), story.Printable(d.Program), story.Printable(d.world.requestFile()), trickle)
}
