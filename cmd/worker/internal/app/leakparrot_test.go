package app

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/flow-worker/flow-worker/internal/canary"
)

// parrot stands before a service and says back, in an error, every secret that it was ever sent. What it
// is to do with a connection is in the connection's name: see script.
type parrot struct {
	next http.Handler

	mu      sync.Mutex
	heard   map[string]bool // secrets in calls
	seen    map[string]int  // :: connection's name → POSTs
	changed chan struct{}   // closed when a call hangs
	hanging int
}

func newParrot(next http.Handler) *parrot {
	return &parrot{next: next, heard: map[string]bool{}, seen: map[string]int{}, changed: make(chan struct{})}
}

// script says how to answer the POST of a connection: "parrot|<status>|<shape>|<spelling>|<how often>" is its
// name.
type script struct {
	status          int
	shape, spelling string
	times           int
}

func scriptOf(name string) (s script, ok bool) {
	parts := strings.Split(name, "|")
	if len(parts) != 5 || parts[0] != "parrot" {
		return s, false
	}
	_, err := fmt.Sscanf(parts[1]+" "+parts[4], "%d %d", &s.status, &s.times)
	s.shape, s.spelling = parts[2], parts[3]
	return s, err == nil
}

// ServeHTTP implements http.Handler.
func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	secrets := p.listen(r, body)
	var named struct{ Name string }
	_ = json.Unmarshal(body, &named)
	if r.Header.Get("X-Sandbox-Name") == "unlistable" {
		named.Name = "parrot|500|flow|plain|9999"
	}
	s, ok := scriptOf(named.Name)
	if strings.HasSuffix(r.URL.Path, "/token/v3") && strings.HasPrefix(r.PostFormValue("client_id"), "parrot") {
		s, ok = script{status: 503, shape: "ims", spelling: "plain", times: 9999}, true
		if r.PostFormValue("client_id") == "parrot-refused" {
			s.status = 400
		}
	}
	if !ok || p.count(named.Name) > s.times {
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.next.ServeHTTP(w, r)
		return
	}
	p.answer(w, r, s, secrets)
}

func (p *parrot) count(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[name]++
	return p.seen[name]
}

// listen returns the secrets of a call, and remembers them.
func (p *parrot) listen(r *http.Request, body []byte) (secrets []string) {
	hear := func(secret string) {
		if len(secret) >= 16 {
			secrets = append(secrets, secret)
			p.heard[secret] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	hear(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	hear(r.Header.Get("X-Api-Key"))
	hear(r.Header.Get("X-Vault-Token"))
	var sent struct {
		Auth     struct{ Params struct{ AccessToken string } }
		SecretID string `json:"secret_id"`
		JWT      string `json:"jwt"`
	}
	if json.Unmarshal(body, &sent) == nil {
		hear(sent.Auth.Params.AccessToken)
		hear(sent.SecretID)
		hear(sent.JWT)
	}
	if strings.HasSuffix(r.URL.Path, "/token/v3") {
		_ = r.ParseForm() // what can be read of it is
		hear(r.PostForm.Get("client_secret"))
	}
	return secrets
}

func (p *parrot) allHeard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.heard))
}

func (p *parrot) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.heard)
}

// answer writes an answer of a shape that says the secrets wherever it can.
func (p *parrot) answer(w http.ResponseWriter, r *http.Request, s script, secrets []string) {
	spell := canary.Spellings[s.spelling].Write
	var said []string
	for _, each := range secrets {
		said = append(said, spell(each))
	}
	all, h := strings.Join(said, " "), w.Header()
	h.Set("Content-Type", "application/json")
	safe := strings.NewReplacer("\r", "", "\n", "").Replace(said[0])
	for _, name := range []string{"X-Request-Id", "Etag", "Www-Authenticate", "X-Echo"} {
		h.Set(name, safe)
	}
	h.Set("Location", "/connections/"+safe)
	switch s.shape {
	case "hang":
		p.hang(r)
		panic(http.ErrAbortHandler)
	case "abort":
		panic(http.ErrAbortHandler)
	case "gzip":
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(s.status)
		zip := gzip.NewWriter(w)
		_, _ = zip.Write([]byte(bodyOf("flow", said, all)))
		_ = zip.Close()
		return
	case "trailer":
		h.Set("Trailer", "X-Secret")
		defer h.Set("X-Secret", safe)
	case "html", "text":
		h.Set("Content-Type", "text/"+s.shape)
	case "malformed header":
		hijacked(w, "HTTP/1.1 "+safe+"\r\n"+safe+"\r\n\r\n"+all)
		return
	}
	w.WriteHeader(s.status)
	_, _ = io.WriteString(w, bodyOf(s.shape, said, all))
}

func hijacked(w http.ResponseWriter, raw string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, raw)
	_ = conn.Close()
}

func (p *parrot) hang(r *http.Request) {
	p.mu.Lock()
	p.hanging++
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	<-r.Context().Done()
}

// shapes are the bodies that an answer may have, as fmt formats: %[1]s and on are pieces of JSON text.
var shapes = map[string]string{
	"flow":      `{"type":"http://ns.adobe.com/x/FLOW-1413-400 %[1]s","title":"%[1]s","status":400,"%[1]s":"x","report":{"message":"%[1]s","detailed-message":"it is %[1]s","request-id":"%[2]s"},"id":"%[2]s","etag":"%[2]s"}`,
	"gateway":   `{"error_code":"403025","message":"%[1]s %[2]s"}`,
	"legacy":    `{"errorMessage":"bad: %[1]s","errorDetails":"%[1]s"}`,
	"problem":   `{"type":"%[2]s","title":"%[1]s","detail":"","status":"%[2]s"}`,
	"ims":       `{"error":"%[2]s","error_description":"%[1]s","access_token":"%[2]s"}`,
	"asleep":    `{"type":"https://ns.adobe.com/aep/errors/FLOW-1308-400","report":{"detailed-message":"cluster %[1]s is not running"}}`,
	"split":     `{"error_code":"%[3]s","message":"%[4]s","report":{"request-id":"%[5]s"}}`,
	"made":      `{"id":"%[2]s","etag":"%[2]s"}`,
	"made list": `{"items":[{"id":"%[2]s","etag":"%[2]s"}]}`,
	"malformed": `{"message":"%[1]s","report":{"a":%[1]s`,
	"html":      `<html><head><title>%[1]s</title></head><body>%[1]s</body></html>`,
	"text":      `%[1]s`,
	"trailer":   `{"message":"%[1]s"}`,
}

func bodyOf(shape string, said []string, all string) string {
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b[1 : len(b)-1]) }
	first := said[0]
	third := len(first) / 3
	return fmt.Sprintf(shapes[shape]+"%.0[1]s%.0[2]s%.0[3]s%.0[4]s%.0[5]s",
		quoted(all), quoted(first), quoted(first[:third]), quoted(first[third:2*third]), quoted(first[2*third:3*third]))
}
