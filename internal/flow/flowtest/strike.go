package flowtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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

// maxHang bounds an EffectHang without a Delay.
const maxHang = 10 * time.Minute

// misbehave ends the call as f wants. made is what the answer would have been, where the work is done.
// It returns false where nobody is left to answer to.
func (x *exchange) misbehave(f *Fault, made answer) (answer, bool) {
	switch f.Effect {
	case EffectReset, EffectHang:
		x.breakUp(f)
		return answer{}, false
	case EffectClusterStopped, EffectBadCredentials:
		return x.providerRefusal(f), true
	case EffectExpiredToken:
		x.em.idents.revoke(x.bearer)
		return gatewayAnswer("401013"), true
	case EffectRateLimit:
		return f.hint(gatewayAnswer("429050"), x.em.cfg.Clock()), true
	default:
		return x.statusAnswer(f, made), true
	}
}

// breakUp hangs, if f wants it, and resets the TCP connection.
func (x *exchange) breakUp(f *Fault) {
	if f.Effect == EffectHang {
		d := f.Delay
		if d == 0 {
			d = maxHang
		}
		x.em.hanging.Add(1)
		x.em.announce()
		_ = x.em.cfg.Sleep(x.r.Context(), d)
		x.em.hanging.Add(-1)
	}
	x.em.announce()
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil { // HTTP/2 or a recorder
		panic(http.ErrAbortHandler)
	}
	reset(conn)
}

// reset closes conn with a TCP RST where it can.
func reset(conn net.Conn) {
	inner := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		inner = t.NetConn()
	}
	if t, ok := inner.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = inner.Close()
}

// providerRefusal is how a call ends for which Databricks would have been needed.
func (x *exchange) providerRefusal(f *Fault) answer {
	if x.op == OpTest {
		if _, refusal := x.found(); refusal != nil {
			return *refusal
		}
		return testResult(false)
	}
	text := f.Message
	if text == "" && f.Effect == EffectClusterStopped {
		text = fmt.Sprintf("TEMPORARILY_UNAVAILABLE: cluster %s is not running. Current state: TERMINATED.", x.clusterID())
	}
	if text == "" {
		text = "UNAUTHENTICATED: Invalid access token."
	}
	return x.flowError("1308-400", text)
}

// clusterID returns the cluster that the call would have needed.
func (x *exchange) clusterID() string {
	if c, ok := x.em.store.get(x.scope(), x.id); ok {
		return fmt.Sprint(c.params["clusterId"])
	}
	if body, refusal := x.createBody(); refusal == nil {
		return fmt.Sprint(body.Auth.Params["clusterId"])
	}
	return "of this connection"
}

// statusAnswer builds the answer of an EffectStatus.
func (x *exchange) statusAnswer(f *Fault, made answer) answer {
	a := x.faultBody(f, made)
	a.status, a.header = f.Status, maps.Clone(a.header)
	for key, value := range f.Header {
		a = a.with(key, value)
	}
	return f.hint(a, x.em.cfg.Clock())
}

func (x *exchange) faultBody(f *Fault, made answer) answer {
	kind := f.Body
	if kind == "" && x.op == OpToken {
		kind = BodyIMS
	}
	switch kind {
	case BodyNormal:
		return made
	case BodyNoID:
		return answer{header: made.header, body: []byte("{}")}
	case BodyEmpty:
		return answer{}
	case BodyGarbage:
		return answer{body: []byte(`{"id": "3b0f6c1e-7a5`)}.with("Content-Type", "application/json")
	case BodyHTML:
		text := fmt.Sprintf("<html>\n<head><title>%d %s</title></head>\n<body><h1>%[1]d %s</h1></body>\n</html>\n",
			f.Status, f.text(http.StatusText(f.Status)))
		return answer{body: []byte(text)}.with("Content-Type", "text/html")
	case BodyGateway, BodyGatewayNumber:
		return f.gatewayBody()
	case BodyLegacy:
		return legacyAnswer(f.Status, f.text(http.StatusText(f.Status)))
	case BodyProblem:
		return problemAnswer(f.Status, http.StatusText(f.Status), f.text(http.StatusText(f.Status)))
	case BodyIMS:
		usual := "server_error"
		if f.Status < http.StatusInternalServerError {
			usual = "invalid_client"
		}
		return imsAnswer(f.Status, f.code(usual), f.text(http.StatusText(f.Status)))
	default:
		return x.flowFault(f)
	}
}

func (f *Fault) gatewayBody() answer {
	code := f.code(gatewayCodes[f.Status])
	if code == "" {
		code = strconv.Itoa(f.Status * 1000)
	}
	text := f.text(gatewayTexts[code])
	if f.Body == BodyGatewayNumber {
		n, _ := strconv.Atoi(code) // Validate wants digits
		return gatewayBody(f.Status, n, text)
	}
	return gatewayBody(f.Status, code, text)
}

// flowFault is the current shape with f's code, or one that goes with its status.
func (x *exchange) flowFault(f *Fault) answer {
	code := f.code(flowCodes[f.Status])
	if code == "" {
		code = fmt.Sprintf("1102-%d", f.Status)
	}
	entry := catalogue[code]
	if entry.title == "" {
		entry.title, entry.text = http.StatusText(f.Status), http.StatusText(f.Status)
	}
	text := f.text(strings.ReplaceAll(entry.text, "%s", "?"))
	return flowAnswer(f.Status, code, entry.title, flowReport{Message: text, RequestID: x.requestID})
}

func (f *Fault) code(usual string) string {
	if f.Code != "" {
		return f.Code
	}
	return usual
}

func (f *Fault) text(usual string) string {
	if f.Message != "" {
		return f.Message
	}
	return usual
}

// hint adds f's Retry-After.
func (f *Fault) hint(a answer, now time.Time) answer {
	if f.RetryAfter == 0 {
		return a
	}
	if f.RetryAfterDate {
		return a.with("Retry-After", now.Add(f.RetryAfter).UTC().Format(http.TimeFormat))
	}
	return a.with("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
}
