package inquiry

import (
	"fmt"
	"testing"
)

func TestLineTakesTurns(t *testing.T) {
	t.Parallel()
	l := newLine()
	for i := range 2 * eachWaiting {
		if got := l.join(question{tenant: "acme", reply: fmt.Sprint(i)}); got != (i < eachWaiting) {
			t.Errorf("question %d: %v", i, got)
		}
	}
	l.join(question{tenant: "globex", reply: "g-0"})
	l.join(question{tenant: "globex", reply: "g-1"})
	for i, want := range []string{"0", "g-0", "1", "g-1", "2", "3", "4", "5", "6", "7"} {
		tenant := <-l.turns
		if got := l.first(tenant).reply; got != want {
			t.Errorf("turn %d: %s, want %s", i, got, want)
		}
		l.done(tenant)
	}
	if len(l.turns) > 0 || len(l.waiting) > 0 || l.n != 0 {
		t.Errorf("left: %d turns, %d tenants, %d questions", len(l.turns), len(l.waiting), l.n)
	}
}

// A tenant's next question isn't begun before the one that is being answered is.
func TestLineGivesOneQuestionOfATenantAtATime(t *testing.T) {
	t.Parallel()
	l := newLine()
	l.join(question{tenant: "acme", reply: "0"})
	tenant := <-l.turns
	l.first(tenant)
	l.join(question{tenant: "acme", reply: "1"})
	if len(l.turns) > 0 {
		t.Error("a turn while one is answered")
	}
	l.done(tenant)
	if got := l.first(<-l.turns).reply; got != "1" {
		t.Errorf("then %s", got)
	}
}

// However many tenants there are, as many questions wait, and joining never blocks.
func TestLineIsBounded(t *testing.T) {
	t.Parallel()
	l := newLine()
	room := 0
	for i := range 2 * allWaiting {
		if l.join(question{tenant: fmt.Sprint("t", i)}) {
			room++
		}
	}
	if room != allWaiting || len(l.turns) != allWaiting {
		t.Errorf("%d questions and %d turns, want %d", room, len(l.turns), allWaiting)
	}
	tenant := <-l.turns // being answered: its place is taken by another
	l.first(tenant)
	if !l.join(question{tenant: "late"}) || l.join(question{tenant: "later"}) {
		t.Error("one place was free")
	}
	l.done(tenant)
}
