package ops

import (
	"fmt"
	"strconv"
	"time"

	"github.com/flow-worker/flow-worker/internal/story"
)

// text returns what others wrote as it is shown: what does not print is written as in Go's strings, so
// that nothing can pass for something else, or turn the text around it.
func text(s string) string { return story.Printable(s) }

// stamp writes a time for people; empty if there is none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// machine writes a time for programs; empty if there is none.
func machine(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ago writes how long before now t was, in one or two units, or how long after it is.
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

// length writes a duration in one or two units.
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

// took writes how long something took; empty if it took no time.
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

// number writes n with its thousands apart.
func number[N int | uint64](n N) string {
	digits := strconv.FormatUint(uint64(n), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}
