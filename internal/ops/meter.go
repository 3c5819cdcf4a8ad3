package ops

import "time"

// span is how far back a meter remembers, in seconds.
const span = 600

// meter counts, second by second, how requests ended. The zero value has counted nothing. It is not safe
// for concurrent use.
type meter struct {
	done, failed uint64 // since the start
	seconds      [span]ends
}

// ends is what one second saw.
type ends struct {
	second       int64 // since 1970: a slot is used again after span seconds
	done, failed int
}

func (m *meter) count(now time.Time, failed bool) {
	second := now.Unix()
	slot := &m.seconds[second%span]
	if slot.second != second {
		*slot = ends{second: second}
	}
	if failed {
		m.failed++
		slot.failed++
		return
	}
	m.done++
	slot.done++
}

// between returns the sums of the seconds [from, to).
func (m *meter) between(from, to int64) (done, failed int) {
	for second := max(from, to-span, 0); second < to; second++ {
		if slot := m.seconds[second%span]; slot.second == second {
			done, failed = done+slot.done, failed+slot.failed
		}
	}
	return done, failed
}

// perSecond returns how many requests ended per second, over the last whole minute or since the start.
func (m *meter) perSecond(now, since time.Time) float64 {
	window := min(max(now.Sub(since).Seconds(), 1), 60)
	done, failed := m.between(now.Unix()-int64(window)+1, now.Unix()+1)
	return float64(done+failed) / window
}

// barSeconds is how long each bar of the page's chart covers.
const barSeconds = 10

// Bar is one bar of the chart of ended requests.
type Bar struct {
	Done   int `json:"done"`
	Failed int `json:"failed"`
}

// bars returns the chart, oldest first; the last bar is not over yet. Bars begin at full ten seconds, so
// that what is counted once stays in its bar.
func (m *meter) bars(now time.Time) []Bar {
	end := now.Unix()/barSeconds*barSeconds + barSeconds
	list := make([]Bar, span/barSeconds)
	for i := range list {
		from := end - span + int64(i)*barSeconds
		list[i].Done, list[i].Failed = m.between(from, from+barSeconds)
	}
	return list
}
