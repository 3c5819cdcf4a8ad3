package ops

import (
	"testing"
	"time"
)

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
