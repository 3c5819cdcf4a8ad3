package flowtest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// armed is a fault in use.
type armed struct {
	Fault
	id      string
	seen    int               // selected calls
	struck  int               // calls it acted on
	windows map[string]window // :: org → rate_limit's current second
}

// window counts the calls within one second.
type window struct {
	start time.Time
	calls int
}

// faultSet holds the faults in the order in which they were added.
type faultSet struct {
	dice *dice
	size atomic.Int64 // of list, to be looked at without the lock
	mu   sync.Mutex
	next int
	list []*armed
}

func newFaultSet(d *dice) *faultSet { return &faultSet{dice: d} }

// SetFaults replaces all faults. It panics if one is not valid, as only a mistake in the caller's code
// can do that; see Fault.Validate.
func (e *Emulator) SetFaults(faults ...Fault) {
	mustBeValid(faults...)
	e.faults.set(faults)
	e.announce()
}

// AddFault adds a fault after the others and returns what takes it away again, which may be called
// more than once. It panics if f is not valid, like SetFaults.
func (e *Emulator) AddFault(f Fault) (remove func()) {
	mustBeValid(f)
	id := e.faults.add(f)
	e.announce()
	return func() {
		e.faults.remove(id)
		e.announce()
	}
}

func mustBeValid(faults ...Fault) {
	for _, f := range faults {
		if err := f.Validate(); err != nil {
			panic(err)
		}
	}
}

func (s *faultSet) set(faults []Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = nil
	for _, f := range faults {
		s.addLocked(f)
	}
	s.size.Store(int64(len(s.list)))
}

func (s *faultSet) add(f Fault) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.size.Store(int64(len(s.list))) }()
	return s.addLocked(f)
}

func (s *faultSet) addLocked(f Fault) string {
	s.next++
	a := &armed{Fault: f, id: fmt.Sprintf("fault-%d", s.next), windows: map[string]window{}}
	s.list = append(s.list, a)
	return a.id
}

// remove takes a fault away; false if there is none of that id.
func (s *faultSet) remove(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(a *armed) bool { return a.id == id })
	s.size.Store(int64(len(s.list)))
	return len(s.list) < n
}

// plan is what the faults have in store for one call.
type plan struct {
	before, after time.Duration // latencies
	lag           time.Duration
	initializing  time.Duration
	truncate      bool
	bytes         int
	stores        []Fault  // of EffectStore
	state         string   // of EffectState
	unique        *Fault   // of EffectUniqueNames
	omit, refuse  []string // of EffectOmit and EffectRefuseQuery
	unordered     bool
	foldNames     bool
	end           *Fault // what ends the call; nil: nothing
}

// unread returns the fault that breaks the call before its body is read.
func (s *faultSet) unread(x *exchange) (*Fault, bool) {
	if s.size.Load() == 0 {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.list {
		if a.When == StageUnread && a.selects(x, nil) && s.strikes(a, x) {
			f := a.Fault
			return &f, true
		}
	}
	return nil, false
}

// plan asks every other fault, up to the first that ends the call.
func (s *faultSet) plan(x *exchange) plan {
	var p plan
	if s.size.Load() == 0 {
		return p
	}
	name := sync.OnceValue(x.connectionName)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.list {
		if a.When == StageUnread || !a.selects(x, name) || !s.strikes(a, x) {
			continue
		}
		if p.take(a.Fault); p.end != nil {
			break
		}
	}
	return p
}

func (p *plan) take(f Fault) {
	switch f.Effect {
	case EffectLatency:
		if f.When == StageAfter {
			p.after += f.Delay
		} else {
			p.before += f.Delay
		}
	case EffectTruncate:
		p.truncate, p.bytes = true, f.Bytes
	case EffectListLag:
		p.lag = max(p.lag, f.Delay)
	case EffectInitializing:
		p.initializing = max(p.initializing, f.Delay)
	case EffectStore:
		p.stores = append(p.stores, f)
	case EffectState:
		p.state = f.State
	case EffectUniqueNames:
		p.unique = &f
	case EffectOmit:
		p.omit = append(p.omit, f.Fields...)
	case EffectRefuseQuery:
		p.refuse = append(p.refuse, f.Fields...)
	case EffectUnordered:
		p.unordered = true
	case EffectFoldNames:
		p.foldNames = true
	default:
		p.end = &f
	}
}

// selects reports whether a is meant for x. name is only asked for when it matters.
func (a *armed) selects(x *exchange, name func() string) bool {
	switch {
	case a.Operation != "" && a.Operation != OpAny && a.Operation != x.op,
		a.OrgID != "" && a.OrgID != x.org,
		a.Sandbox != "" && a.Sandbox != x.sandbox:
		return false
	case a.Name == "" && a.NamePrefix == "":
		return true
	}
	n := name()
	return (a.Name == "" || a.Name == n) && strings.HasPrefix(n, a.NamePrefix)
}

// strikes decides whether a acts on a call that it selects, and counts it.
func (s *faultSet) strikes(a *armed, x *exchange) bool {
	a.seen++
	switch {
	case a.seen <= a.Skip,
		a.Times > 0 && a.struck >= a.Times,
		a.Probability > 0 && !s.dice.chance(a.Probability),
		a.Effect == EffectRateLimit && a.hasRoom(x.org, x.em.cfg.Clock()):
		return false
	}
	a.struck++
	return true
}

// hasRoom counts a call against the limit of its organization.
func (a *armed) hasRoom(org string, now time.Time) bool {
	w := a.windows[org]
	if d := now.Sub(w.start); d < 0 || d >= time.Second {
		w = window{start: now}
	}
	w.calls++
	a.windows[org] = w
	return w.calls <= a.PerSecond
}

// connectionName returns the name of the connection that the call is about, if it is about one.
func (x *exchange) connectionName() string {
	switch x.op {
	case OpCreate:
		var body struct{ Name string }
		_ = json.Unmarshal(x.body, &body) // a body that cannot be read has no name
		return body.Name
	case OpList:
		return nameFilter(x.query)
	case OpToken, OpSpecs, OpOther:
		return ""
	}
	c, ok := x.em.store.get(x.scope(), x.id)
	if !ok {
		return ""
	}
	return c.name
}

// nameFilter returns the first name that a list query asks for.
func nameFilter(query url.Values) string {
	for _, p := range query["property"] {
		if f, bad := parseFilter(p); bad == nil && f.path == "name" {
			return f.values[0]
		}
	}
	return ""
}
