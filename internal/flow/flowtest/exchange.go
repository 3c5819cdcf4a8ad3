package flowtest

import (
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Operation names what a call does.
type Operation string

// The operations.
const (
	OpCreate  Operation = "create"  // POST /connections
	OpList    Operation = "list"    // GET /connections
	OpGet     Operation = "get"     // GET /connections/{id}
	OpUpdate  Operation = "update"  // PATCH /connections/{id}
	OpDelete  Operation = "delete"  // DELETE /connections/{id}
	OpTest    Operation = "test"    // GET /connections/{id}/test
	OpExplore Operation = "explore" // GET /connections/{id}/explore
	OpAction  Operation = "action"  // POST /connections/{id}/action
	OpSpecs   Operation = "specs"   // GET /connectionSpecs, GET /connectionSpecs/{id}
	OpToken   Operation = "token"   // POST /ims/token/v3
	OpOther   Operation = "other"   // what the emulator does not serve
	OpAny     Operation = "any"     // all of them, as a selection only
)

const (
	flowBase  = "/data/foundation/flowservice"
	adminBase = "/_emulator"
	tokenPath = "/ims/token/v3"
)

// exchange is one request on its way through the emulator.
type exchange struct {
	em        *Emulator
	w         http.ResponseWriter
	r         *http.Request
	now       time.Time // when it arrived
	requestID string
	op        Operation
	handle    func(*exchange) answer
	id        string // the second part of the path
	query     url.Values
	queryErr  error
	org       string
	sandbox   string
	bearer    string
	body      []byte
	plan      plan // what faults have in store; set before handle
}

// route is one row of the table of routes.
type route struct {
	op     Operation
	handle func(*exchange) answer
}

func routes() map[string]map[string]route {
	return map[string]map[string]route{
		"connections": {
			http.MethodGet:  {OpList, (*exchange).list},
			http.MethodPost: {OpCreate, (*exchange).create},
		},
		"connections/*": {
			http.MethodGet:    {OpGet, (*exchange).get},
			http.MethodPatch:  {OpUpdate, (*exchange).update},
			http.MethodDelete: {OpDelete, (*exchange).remove},
		},
		"connections/*/test":    {http.MethodGet: {OpTest, (*exchange).test}},
		"connections/*/explore": {http.MethodGet: {OpExplore, (*exchange).explore}},
		"connections/*/action":  {http.MethodPost: {OpAction, (*exchange).action}},
		"connectionSpecs":       {http.MethodGet: {OpSpecs, (*exchange).listSpecs}},
		"connectionSpecs/*":     {http.MethodGet: {OpSpecs, (*exchange).getSpec}},
		"ims/token/v3":          {http.MethodPost: {OpToken, (*exchange).token}},
	}
}

// ServeHTTP implements http.Handler. A fault that breaks the connection hijacks it; where that cannot
// be done it panics with http.ErrAbortHandler, as net/http wants it.
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, adminBase); ok && (rest == "" || rest[0] == '/') {
		e.serveAdmin(w, r, strings.Trim(rest, "/"))
		return
	}
	x := e.receive(w, r)
	if f, ok := e.faults.unread(x); ok {
		e.log.add(x, e.secrets)
		e.announce()
		x.breakUp(f)
		return
	}
	refusal := x.read()
	seq := e.log.add(x, e.secrets)
	e.announce()
	if refusal != nil {
		x.write(seq, *refusal)
		return
	}
	if a, answered := x.serve(); answered {
		x.write(seq, a)
	}
	e.announce()
}

// receive takes in all of a request but its body.
func (e *Emulator) receive(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{em: e, w: w, r: r, now: e.cfg.Clock(), requestID: e.store.dice.hex()}
	x.org = r.Header.Get("x-gw-ims-org-id")
	x.sandbox = r.Header.Get("x-sandbox-name")
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		x.bearer = token
	}
	raw := r.URL.RawQuery
	if e.cfg.LiteralPlus {
		raw = strings.ReplaceAll(raw, "+", "%2B")
	}
	x.query, x.queryErr = url.ParseQuery(raw)
	x.route()
	return x
}

// route finds operation, id and handler of the request.
func (x *exchange) route() {
	path := strings.TrimPrefix(x.r.URL.Path, flowBase)
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) > 1 && path != tokenPath {
		x.id, parts[1] = parts[1], "*"
	}
	methods, known := x.em.routes[strings.Join(parts, "/")]
	rt, ok := methods[x.r.Method]
	switch {
	case ok:
		x.op, x.handle = rt.op, rt.handle
	case known:
		x.op, x.handle = OpOther, func(x *exchange) answer {
			return problemAnswer(http.StatusMethodNotAllowed, "MethodNotAllowed", x.r.Method+" is not allowed here")
		}
	default:
		x.op, x.handle = OpOther, func(*exchange) answer {
			return problemAnswer(http.StatusNotFound, "NotFound", "the emulator does not serve this path")
		}
	}
}

func (x *exchange) read() *answer {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, MaxBody))
	if err == nil {
		x.body = body
		return nil
	}
	var tooLarge *http.MaxBytesError
	a := badRequest("the body cannot be read")
	if errors.As(err, &tooLarge) {
		a = problemAnswer(http.StatusRequestEntityTooLarge, "PayloadTooLarge", "the body is too large")
	}
	return &a
}

// serve takes a request through headers, faults and handler. It returns false where a fault left
// nobody to answer to. A client that leaves during a latency does not stop the work, as with a real
// server: only the rest of the waiting is saved.
func (x *exchange) serve() (answer, bool) {
	if refusal := x.checkHeaders(); refusal != nil {
		return *refusal, true
	}
	x.plan = x.em.faults.plan(x)
	p := x.plan
	x.pause(x.em.cfg.Latency + p.before)
	if p.end != nil && p.end.When != StageAfter {
		return x.misbehave(p.end, answer{})
	}
	a := x.handle(x)
	x.em.announce()
	x.pause(p.after)
	if p.end != nil && a.ok() && p.end.When == StageAfter {
		return x.misbehave(p.end, a)
	}
	return a, true
}

// pause waits, and says nothing of a client that has gone.
func (x *exchange) pause(d time.Duration) {
	if d > 0 {
		_ = x.em.cfg.Sleep(x.r.Context(), d)
	}
}

func (x *exchange) write(seq uint64, a answer) {
	x.em.log.answered(seq, a.status)
	x.em.cfg.Log.LogAttrs(x.r.Context(), slog.LevelDebug, "request",
		slog.String("operation", string(x.op)), slog.String("path", x.r.URL.Path), slog.String("org", x.org),
		slog.String("sandbox", x.sandbox), slog.Int("status", a.status), slog.String("requestId", x.requestID))
	h := x.w.Header()
	for key, values := range a.header {
		h[key] = values
	}
	h.Set("x-request-id", x.requestID)
	x.w.WriteHeader(a.status)
	_, _ = x.w.Write(a.body) // the client may have gone
}

var orgPattern = regexp.MustCompile(`^[^@\s]+@AdobeOrg$`)

// checkHeaders returns the refusal of a request whose headers are not in order, gateway first. The
// token endpoint wants no headers.
func (x *exchange) checkHeaders() *answer {
	if x.op == OpToken || x.op == OpOther {
		return nil
	}
	for _, check := range []func() *answer{x.checkToken, x.checkOrg, x.checkSandbox, x.checkContentType} {
		if refusal := check(); refusal != nil {
			return refusal
		}
	}
	return nil
}

func (x *exchange) checkToken() *answer {
	key := x.r.Header.Get("x-api-key")
	if x.r.Header.Get("Authorization") == "" {
		return refuse(gatewayAnswer("403010"))
	}
	if key == "" {
		return refuse(gatewayAnswer("403000"))
	}
	g, known := x.em.idents.lookup(x.bearer)
	switch {
	case !known && x.em.cfg.AllowAnyToken && x.bearer != "":
		return nil
	case !known || !g.valid(x.now):
		return refuse(gatewayAnswer("401013"))
	case g.apiKey != "" && g.apiKey != key:
		return refuse(gatewayAnswer("403003"))
	}
	return nil
}

func (x *exchange) checkOrg() *answer {
	if x.org == "" {
		return refuse(gatewayAnswer("400003"))
	}
	if !orgPattern.MatchString(x.org) {
		return refuse(gatewayAnswer("403027"))
	}
	if g, _ := x.em.idents.lookup(x.bearer); g.orgID != "" && g.orgID != x.org {
		return refuse(gatewayAnswer("403025"))
	}
	return nil
}

func (x *exchange) checkSandbox() *answer {
	switch {
	case x.r.Header.Get("x-sandbox-id") != "":
		return refuse(x.flowError("2110-400"))
	case x.sandbox == "":
		return refuse(x.flowError("2105-400"))
	case x.sandbox == "*":
		return refuse(x.flowError("2111-403"))
	}
	return nil
}

func (x *exchange) checkContentType() *answer {
	if x.r.Method != http.MethodPatch && x.op != OpCreate {
		return nil
	}
	kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return refuse(badRequest("A valid content-type must be specified"))
	}
	return nil
}
