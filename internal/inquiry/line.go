package inquiry

import (
	"sync"
	"time"
)

// line holds the questions that wait. Tenants take turns, and have one question answered at a time, so that
// neither many questions of one nor slow ones hold up another's. It is safe for concurrent use.
type line struct {
	turns chan string // tenants with a question that waits and none that is being answered; it never fills

	mu      sync.Mutex
	waiting map[string][]question // :: tenant in turns or being answered → its questions that wait; guarded by mu
	n       int                   // all of them; guarded by mu
}

func newLine() *line {
	return &line{turns: make(chan string, allWaiting), waiting: map[string][]question{}}
}

// join puts q at the end of its tenant's questions, and reports whether there was room for it.
func (l *line) join(q question) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, inTurn := l.waiting[q.tenant]
	if len(own) >= eachWaiting || l.n >= allWaiting {
		return false
	}
	l.waiting[q.tenant] = append(own, q)
	l.n++
	if !inTurn {
		l.turns <- q.tenant
	}
	return true
}

// first takes the first question of a tenant that was received from turns. Call done when it is answered.
func (l *line) first(tenant string) question {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.waiting[tenant]
	l.waiting[tenant] = own[1:]
	l.n--
	return own[0]
}

// done gives the tenant its next turn, after all others.
func (l *line) done(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting[tenant]) > 0 {
		l.turns <- tenant
	} else {
		delete(l.waiting, tenant)
	}
}

// pace counts the questions of each tenant. It belongs to one goroutine.
type pace struct {
	now    func() time.Time
	second time.Time
	asked  map[string]int // :: tenant → questions in this second
}

func newPace(now func() time.Time) *pace { return &pace{now: now} }

// count returns how many questions the tenant has asked in this second, with one more.
func (p *pace) count(tenant string) int {
	if second := p.now().Truncate(time.Second); p.asked == nil || !second.Equal(p.second) {
		p.second, p.asked = second, map[string]int{}
	}
	p.asked[tenant]++
	return p.asked[tenant]
}
