package flowtest

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

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
