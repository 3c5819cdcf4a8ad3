package limit

import (
	"math/rand/v2"
	"time"
)

// maxWait bounds the waits that a line gives.
const maxWait = 5 * time.Minute

// line is a virtual queue: those who join it are given times to come back, one after the other. The
// zero value is empty. It isn't safe for concurrent use.
type line struct{ end time.Time }

// join returns how long until the end of the line, made longer by one more who takes so long. Where that is
// more than maxWait, it is between half of that and all.
func (l *line) join(now time.Time, takes time.Duration) time.Duration {
	if l.end.Before(now) {
		l.end = now
	}
	l.end = l.end.Add(takes)
	if wait := l.end.Sub(now); wait < maxWait {
		return wait
	}
	l.end = now.Add(maxWait) // so that it is soon forgotten when times get better
	return maxWait/2 + rand.N(maxWait/2)
}
