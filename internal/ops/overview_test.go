package ops

import (
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// What must not be missed stands above all else, in the title too, with what to type.
func TestAlarms(t *testing.T) {
	t.Parallel()
	sick := []CheckResult{{Name: "nats", OK: true}, {Name: "vault", Reason: "sealed"}, {Name: "consumer", Reason: "not bound"}}
	for name, c := range map[string]struct {
		snap                       Snapshot
		title, alarm, remedy, tone string
	}{
		"well":   {Snapshot{Health: Report{Ready: true}}, "flow-worker", "", "", ""},
		"paused": {Snapshot{Health: Report{Ready: true, Paused: true}}, "PAUSED · flow-worker", "PAUSED: no worker takes in requests", "worker resume", "odd"},
		"for an hour": {Snapshot{Health: Report{Ready: true, Paused: true}, ResumesIn: 3600}, "PAUSED · flow-worker",
			"PAUSED: no worker takes in requests; the intake starts again by itself in 1 h 0 min", "worker resume", "odd"},
		"for a century": {Snapshot{Health: Report{Ready: true, Paused: true}, ResumesIn: 3e9}, "PAUSED · flow-worker", "PAUSED: no worker takes in requests", "worker resume", "odd"},
		"sick":          {Snapshot{Health: Report{Checks: sick}}, "NOT READY · flow-worker", "NOT READY: vault: sealed; consumer: not bound", "worker doctor", "bad"},
		"both": {Snapshot{Health: Report{Paused: true, Checks: sick}}, "PAUSED, NOT READY · flow-worker", "PAUSED, and NOT READY: vault: sealed; consumer: not bound",
			"worker doctor", "bad"},
	} {
		f := (&Status{}).frame(c.snap)
		if f.Title != c.title || f.Alarm != c.alarm || f.Remedy != c.remedy || f.Loud != c.tone {
			t.Errorf("%s: %+v", name, f)
		}
		p := (&Status{}).storyPage(c.snap, storyOf(record("r-1", provision.StateClaimed), noon))
		if p.Title != "r-1 · "+c.title || p.Alarm != c.alarm {
			t.Errorf("%s: on a story's page: %q, %q", name, p.Title, p.Alarm)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	read := func(snap Snapshot) map[string]string {
		all := map[string]string{}
		for _, f := range figures(snap) {
			all[f.Label] = f.Value + "|" + f.Note + "|" + f.Tone
		}
		return all
	}
	got := read(Snapshot{Queue: &Queue{Pending: 12345, AckPending: 7, OldestSeconds: 90}, InFlightTotal: 2, Done: 10, Failed: 1, PerSecond: 2.345})
	for label, want := range map[string]string{
		"Queued": "12\u202f345|not yet delivered|", "In flight": "2|here; 7 at work or resting in all|", "Done": "10|by this worker|",
		"Failed": "1|by this worker|bad", "Per second": "2.3|over the last minute|", "Oldest waiting": "1 min 30 s|since it entered the stream|",
	} {
		if got[label] != want {
			t.Errorf("%s: %q, want %q", label, got[label], want)
		}
	}
	if got := read(Snapshot{QueueError: "no responders"}); got["Queued"] != "?|no responders|" || got["Failed"] != "0|by this worker|" {
		t.Errorf("in trouble: %v", got)
	}
	if got := read(Snapshot{Queue: &Queue{}, InFlightTotal: 3}); got["Oldest waiting"] != "–|nothing waits|" || !strings.Contains(got["In flight"], "; 3 at work") {
		t.Errorf("idle: %v", got)
	}
}

// The chart's bars stand on its ground and don't leave it, and every one is seen.
func TestChart(t *testing.T) {
	t.Parallel()
	bars := make([]Bar, 60)
	bars[0], bars[59] = Bar{Done: 1000}, Bar{Done: 1, Failed: 500}
	c := chartOf(bars)
	if c.Done != "M1 60v-60h8v60zM591 60v-2h8v2z" || c.Failed != "M591 58v-30h8v30z" {
		t.Errorf("got %q and %q", c.Done, c.Failed)
	}
	if c.Text != "In the last ten minutes 1\u202f001 ended well and 500 failed." || c.Top != "highest bar: 1\u202f000 in 10 s" {
		t.Errorf("got %q, %q", c.Text, c.Top)
	}
	for _, none := range [][]Bar{nil, make([]Bar, 60)} {
		if c := chartOf(none); c.Done+c.Failed != "" {
			t.Errorf("of nothing: %+v", c)
		}
	}
}

func TestWorkRows(t *testing.T) {
	t.Parallel()
	snap := Snapshot{At: noon, InFlightTotal: 40}
	for range 30 {
		snap.InFlight = append(snap.InFlight, InFlight{Key: key("r"), State: provision.StatePosting, Since: noon.Add(-90 * time.Second)})
	}
	rows, note := workRows(snap)
	if len(rows) != maxWork || rows[0].State != "posting" || rows[0].Ago != "1 min 30 s" || rows[0].URL != "/requests/acme.=2Fportal.r" || note != "and 30 more, younger ones" {
		t.Errorf("%d rows, %+v, %q", len(rows), rows[0], note)
	}
	if rows, note := workRows(Snapshot{}); len(rows) != 0 || note == "" {
		t.Errorf("of nothing: %v, %q", rows, note)
	}
	outcomes := outcomeRows(Snapshot{At: noon, Outcomes: []Concluded{{Key: key("a"), Outcome: "created", Repeat: true, Adopted: true, Connection: "c"},
		{Key: key("b"), Outcome: "failed", Reason: provision.ReasonIDReused, Message: "no"}}})
	if outcomes[0].State != "adopted, published again" || outcomes[1].What != "id_reused: no" || outcomes[1].Tone != "bad" {
		t.Errorf("outcomes: %+v", outcomes)
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	for back, want := range map[time.Duration]string{
		0: "just now", 4 * time.Second: "just now", 5 * time.Second: "5 s ago", 59 * time.Second: "59 s ago", 61 * time.Second: "1 min 1 s ago",
		3 * time.Hour: "3 h 0 min ago", 50 * time.Hour: "2 d 2 h ago", -90 * time.Second: "in 1 min 30 s", -time.Millisecond: "just now",
	} {
		if got := ago(noon, noon.Add(-back)); got != want {
			t.Errorf("%v: %q, want %q", back, got, want)
		}
	}
	if got := ago(noon, time.Time{}); got != "" {
		t.Errorf("never: %q", got)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration][2]string{ // :: duration → as length, as took
		-time.Second: {"0 ms", ""}, 0: {"0 ms", ""}, time.Microsecond: {"0 ms", "<1 ms"}, 7 * time.Millisecond: {"7 ms", "7 ms"},
		1540 * time.Millisecond: {"1 s", "1.5 s"}, 90 * time.Second: {"1 min 30 s", "1 min 30 s"}, 26 * time.Hour: {"1 d 2 h", "1 d 2 h"},
	} {
		if got := [2]string{length(d), took(d)}; got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if stamp(time.Time{})+machine(time.Time{}) != "" {
		t.Error("no time is shown as one")
	}
	east := noon.In(time.FixedZone("east", 3600))
	if stamp(east) != "2026-11-22 12:00:00Z" || machine(east) != "2026-11-22T12:00:00Z" {
		t.Errorf("got %s and %s", stamp(east), machine(east))
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1\u202f000", 1234567: "1\u202f234\u202f567", 1<<64 - 1: "18\u202f446\u202f744\u202f073\u202f709\u202f551\u202f615"} {
		if got := number(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
