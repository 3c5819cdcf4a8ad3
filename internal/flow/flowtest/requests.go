package flowtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Request is a call that the emulator got.
type Request struct {
	Seq       uint64      `json:"seq"` // from 1, in the order of arrival since New or Reset
	At        time.Time   `json:"at"`
	Operation Operation   `json:"operation"`
	Method    string      `json:"method"`
	Path      string      `json:"path"`
	RawQuery  string      `json:"query,omitempty"` // as it was sent
	Query     url.Values  `json:"-"`
	Header    http.Header `json:"header"` // Authorization is redacted
	// Body is as it was sent, byte for byte, but for provision.Redacted in the place of every secret.
	// It is nil where a fault left it unread, where it is not JSON, and where it is longer than 32 KiB.
	Body []byte `json:"-"`
	// AccessToken is the token in the body of a create or update; empty if there was none.
	AccessToken provision.Sensitive `json:"-"`
	// Status is what was answered, 0 if nothing was, yet or ever.
	Status int `json:"status"`
}

// keptBody is the longest body that is kept of a request, in bytes.
const keptBody = 32 << 10

// recorder keeps the latest requests, and counts all of them.
type recorder struct {
	mu     sync.Mutex
	ring   []Request // the request with Seq n is at (n-1) mod MaxKept
	total  uint64
	counts map[Operation]int
}

func newRecorder() *recorder {
	r := &recorder{}
	r.clear()
	return r
}

func (r *recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring, r.total, r.counts = nil, 0, map[Operation]int{}
}

// add counts and keeps a request and returns its Seq.
func (r *recorder) add(x *exchange, secrets map[string]bool) uint64 {
	req := Request{
		At: x.now, Operation: x.op, Method: x.r.Method, Path: x.r.URL.Path,
		RawQuery: x.r.URL.RawQuery, Query: x.query, Header: x.r.Header.Clone(),
	}
	if req.Header.Get("Authorization") != "" {
		req.Header.Set("Authorization", provision.Redacted)
	}
	if x.op == OpToken {
		req.RawQuery, req.Query, req.Body = redactForm(x.r.URL.RawQuery), nil, []byte(redactForm(string(x.body)))
	} else if len(x.body) > 0 && len(x.body) <= keptBody {
		req.Body, req.AccessToken = redactJSON(x.body, secrets, x.op == OpUpdate)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	r.counts[x.op]++
	req.Seq = r.total
	if len(r.ring) < MaxKept {
		r.ring = append(r.ring, req)
	} else {
		r.ring[(req.Seq-1)%MaxKept] = req
	}
	return req.Seq
}

// answered notes the status of an answer.
func (r *recorder) answered(seq uint64, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := int((seq - 1) % MaxKept)
	if i < len(r.ring) && r.ring[i].Seq == seq { // else it is forgotten
		r.ring[i].Status = status
	}
}

func (r *recorder) count(op Operation) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op == OpAny {
		return int(r.total)
	}
	return r.counts[op]
}

func (r *recorder) list() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := 0
	if len(r.ring) == MaxKept {
		oldest = int(r.total % MaxKept)
	}
	out := make([]Request, 0, len(r.ring))
	out = append(out, r.ring[oldest:]...)
	return append(out, r.ring[:oldest]...)
}

// redactForm returns a form without its client_secret; an unreadable one becomes all secret.
func redactForm(form string) string {
	values, err := url.ParseQuery(form)
	if err != nil {
		return provision.Redacted
	}
	if values.Has("client_secret") {
		values.Set("client_secret", provision.Redacted)
	}
	return values.Encode()
}

// jsonRedactor copies JSON and leaves out secrets.
type jsonRedactor struct {
	in      []byte
	out     bytes.Buffer
	copied  int // how much of in is dealt with
	secrets map[string]bool
	inPatch bool // "value" may hold a secret when it is a text
	token   provision.Sensitive

	objects []bool // :: nesting → is it an object
	wantKey bool   // the next text is a key
	key     string // the last key
	hidden  int    // nesting below which everything is secret, 0: nothing
}

// redactJSON returns body with every value of a field named in secrets replaced, and the value of
// accessToken. A body that is not JSON is wholly left out, for nobody knows what it holds.
func redactJSON(body []byte, secrets map[string]bool, inPatch bool) ([]byte, provision.Sensitive) {
	r := &jsonRedactor{in: body, secrets: secrets, inPatch: inPatch}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for {
		before := int(dec.InputOffset())
		tok, err := dec.Token()
		if err == io.EOF && len(r.objects) == 0 {
			r.out.Write(body[r.copied:])
			return r.out.Bytes(), r.token
		}
		if err != nil {
			return nil, provision.Sensitive{}
		}
		r.next(tok, before, int(dec.InputOffset()))
	}
}

// next deals with the token that ends at end; what lies between it and the one before begins at start.
func (r *jsonRedactor) next(tok json.Token, start, end int) {
	if d, ok := tok.(json.Delim); ok {
		r.delim(d)
		return
	}
	if r.wantKey {
		r.key, _ = tok.(string) // the decoder allows nothing else
		r.wantKey = false
		return
	}
	if r.secret(tok) {
		if s, ok := tok.(string); ok && r.key == "accessToken" {
			r.token = provision.NewSensitive(s)
		}
		start += len(r.in[start:end]) - len(bytes.TrimLeft(r.in[start:end], " \t\r\n,:"))
		r.out.Write(r.in[r.copied:start])
		r.out.WriteString(`"` + provision.Redacted + `"`)
		r.copied = end
	}
	r.valueDone()
}

// secret reports whether the value that was just read has to go.
func (r *jsonRedactor) secret(tok json.Token) bool {
	if r.hidden > 0 {
		return true
	}
	inObject := len(r.objects) > 0 && r.objects[len(r.objects)-1]
	_, text := tok.(string)
	return inObject && (r.secrets[r.key] || r.inPatch && text && r.key == "value")
}

func (r *jsonRedactor) delim(d json.Delim) {
	switch d {
	case '{', '[':
		if r.hidden == 0 && len(r.objects) > 0 && r.objects[len(r.objects)-1] && r.secrets[r.key] {
			r.hidden = len(r.objects) + 1
		}
		r.objects = append(r.objects, d == '{')
		r.wantKey = d == '{'
	default:
		if r.hidden == len(r.objects) {
			r.hidden = 0
		}
		r.objects = r.objects[:len(r.objects)-1]
		r.valueDone()
	}
}

// valueDone prepares for what follows a value: a key, inside an object.
func (r *jsonRedactor) valueDone() {
	r.wantKey = len(r.objects) > 0 && r.objects[len(r.objects)-1]
}
