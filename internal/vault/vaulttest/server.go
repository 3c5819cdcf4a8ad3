// Package vaulttest is a Vault server in one process: the part of Vault's HTTP API that the worker
// and its demo need, with Vault's own status codes and bodies, and with faults to switch on.
//
// It speaks the KV engine, versions 1 and 2, the token endpoints lookup-self, renew-self, revoke and
// revoke-self, the logins of approle (with the lockout after five wrong secret ids), kubernetes and jwt,
// sys/health, sys/seal-status, sys/seal, sys/unseal and sys/internal/ui/mounts. It keeps everything in
// memory, knows no namespaces and no policies beyond a role's list of allowed paths, and protects
// nothing: it is for tests and demos only. The conformance suite of package vault runs on it and on the real Vault.
package vaulttest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says what a Server is like. The zero value is a Vault with an empty KV version 2 engine at
// "secret" and no role.
type Config struct {
	Mount     string // of the KV engine, without slashes at its ends; default "secret"
	KVVersion int    // 1 or 2; default 2
	RootToken string // default "vaulttest-root"
	Roles     []Role // who may log in
}

// maxBody is Vault's own limit of a request, 32 MiB, made small: nothing here is that large.
const maxBody = 1 << 20

// Server is a Vault. Its methods are safe for concurrent use.
type Server struct {
	conf Config
	now  func() time.Time

	mu      sync.Mutex
	sealed  bool
	secrets map[string]*secret  // :: path below the mount → all its versions
	tokens  map[string]*token   // :: token → what it may do
	roles   map[string]Role     // :: <auth mount>/<name> → role
	refused map[string]refusals // :: <auth mount>/<role id> → its refused logins
	denied  []string            // path patterns refused to all but root
	outage  Outage
	cleared chan struct{} // closed when outage changes
	serial  int           // makes tokens differ

	log requestLog
}

// New returns an unsealed Server.
func New(conf Config) *Server {
	conf.Mount = cmp.Or(strings.Trim(conf.Mount, "/"), "secret")
	conf.KVVersion = cmp.Or(conf.KVVersion, 2)
	conf.RootToken = cmp.Or(conf.RootToken, "vaulttest-root")
	s := &Server{
		conf:    conf,
		now:     time.Now,
		secrets: make(map[string]*secret),
		tokens:  map[string]*token{conf.RootToken: {id: conf.RootToken, root: true, path: "auth/token/root"}},
		roles:   make(map[string]Role),
		refused: make(map[string]refusals),
		cleared: make(chan struct{}),
	}
	s.log.changed = make(chan struct{})
	for _, r := range conf.Roles {
		s.SetRole(r)
	}
	return s
}

// Token returns the root token, which may do everything and never ends.
func (s *Server) Token() string { return s.conf.RootToken }

const unsealKey = "vaulttest-unseal"

// UnsealKey returns the one key share, which sys/unseal wants.
func (s *Server) UnsealKey() string { return unsealKey }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The body is read first: net/http notices that a client has gone only after that.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	answer := &reply{ResponseWriter: w, status: http.StatusOK}
	switch {
	case err != nil:
		answer.fail(http.StatusRequestEntityTooLarge, "http: request body too large")
	case !s.faulty(answer, r):
		s.route(answer, call{Request: r, body: body, token: r.Header.Get("X-Vault-Token")})
	}
	s.log.add(Request{Method: r.Method, Path: r.URL.Path, Status: answer.status})
}

// call is a request with its body read.
type call struct {
	*http.Request
	body  []byte
	token string
	path  string // without "/v1/"
}

// decode reads the call's JSON body into v; an empty body leaves v as it is. It answers a broken one
// and then reports false.
func (c call) decode(w *reply, v any) bool {
	if len(c.body) == 0 {
		return true
	}
	err := json.Unmarshal(c.body, v)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		w.fail(http.StatusInternalServerError, "malformed JSON, unclosed containers")
	case err != nil:
		w.fail(http.StatusBadRequest, "error parsing JSON: failed to parse JSON input: "+err.Error())
	}
	return err == nil
}

func (c call) writes() bool { return c.Method == http.MethodPut || c.Method == http.MethodPost }

// route finds the endpoint as Vault does: sys first, then logins, which need no token, then the
// rest, which does.
func (s *Server) route(w *reply, c call) {
	path, ok := strings.CutPrefix(c.URL.Path, "/v1/")
	if !ok {
		w.fail(http.StatusNotFound)
		return
	}
	c.path = path
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open(w, c) {
		return
	}
	if s.sealed {
		w.fail(http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	if mount, ok := s.loginMount(c); ok {
		s.login(w, c, mount)
		return
	}
	s.authorized(w, c)
}

// authorized serves what needs a token.
func (s *Server) authorized(w *reply, c call) {
	tok := s.tokenOf(c)
	if c.token == "" {
		w.fail(http.StatusForbidden, "permission denied")
		return
	}
	if tok == nil {
		w.fail(http.StatusForbidden, multi("permission denied", "invalid token"))
		return
	}
	if strings.HasPrefix(c.path, "sys/internal/ui/mounts/") {
		s.preflight(w, c, tok)
		return
	}
	if !s.allows(tok, c.path) {
		w.fail(http.StatusForbidden, multi("permission denied"))
		return
	}
	rest, inKV := strings.CutPrefix(c.path, s.conf.Mount+"/")
	switch {
	case inKV:
		s.kv(w, c, rest)
	case strings.HasPrefix(c.path, "auth/token/"):
		s.tokenCall(w, c, tok)
	case c.path == "sys/seal" && c.writes():
		s.sealed = true
		w.WriteHeader(http.StatusNoContent)
	default:
		w.fail(http.StatusNotFound, noHandler(c.path))
	}
}

func noHandler(path string) string {
	return `no handler for route "` + path + `". route entry not found.`
}

// multi writes errors as Vault's multierror does.
func multi(errs ...string) string {
	head := "1 error occurred:"
	if len(errs) > 1 {
		head = "2 errors occurred:"
	}
	return head + "\n\t* " + strings.Join(errs, "\n\t* ") + "\n\n"
}

// reply writes answers in Vault's form and remembers the status.
type reply struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *reply) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *reply) json(status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; nobody listens
}

// fail writes an error answer with the given messages.
func (w *reply) fail(status int, messages ...string) {
	if messages == nil {
		messages = []string{}
	}
	w.json(status, map[string]any{"errors": messages})
}

// envelope is the frame of Vault's answers.
type envelope struct {
	RequestID     string   `json:"request_id"`
	LeaseID       string   `json:"lease_id"`
	Renewable     bool     `json:"renewable"`
	LeaseDuration int      `json:"lease_duration"`
	Data          any      `json:"data"`
	WrapInfo      any      `json:"wrap_info"`
	Warnings      []string `json:"warnings"`
	Auth          any      `json:"auth"`
	MountType     string   `json:"mount_type"`
}

// frame returns an envelope with a request id of its own.
func (s *Server) frame(data any, mountType string) envelope {
	return envelope{RequestID: s.unique("00000000-0000-4000-8000-%012x"), Data: data, MountType: mountType}
}

// Seal seals the server: it answers 503 until Unseal.
func (s *Server) Seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
}

// Unseal ends what Seal began. Tokens and secrets are as they were.
func (s *Server) Unseal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = false
}

// open serves what a sealed Vault answers too, without a token, and reports whether it did.
func (s *Server) open(w *reply, c call) bool {
	switch {
	case c.path == "sys/health":
		w.json(s.healthStatus(c), map[string]any{
			"initialized": true, "sealed": s.sealed, "standby": s.sealed, "version": "1.21.0",
			"server_time_utc": s.now().Unix(), "cluster_name": "vaulttest",
		})
	case c.path == "sys/seal-status":
		w.json(http.StatusOK, s.sealStatus())
	case c.path == "sys/unseal" && c.writes():
		s.unseal(w, c)
	default:
		return false
	}
	return true
}

// healthStatus is 200, or for a sealed Vault what the caller asks for, else 503.
func (s *Server) healthStatus(c call) int {
	if !s.sealed {
		return http.StatusOK
	}
	if n, err := strconv.Atoi(c.URL.Query().Get("sealedcode")); err == nil && n >= 100 && n <= 599 {
		return n
	}
	return http.StatusServiceUnavailable
}

func (s *Server) sealStatus() map[string]any {
	return map[string]any{
		"type": "shamir", "initialized": true, "sealed": s.sealed, "t": 1, "n": 1, "progress": 0,
		"nonce": "", "version": "1.21.0", "storage_type": "inmem",
	}
}

func (s *Server) unseal(w *reply, c call) {
	var in struct {
		Key string `json:"key"`
	}
	if !c.decode(w, &in) {
		return
	}
	if in.Key != unsealKey {
		w.fail(http.StatusBadRequest, "'key' must be a valid hex or base64 string")
		return
	}
	s.sealed = false
	w.json(http.StatusOK, s.sealStatus())
}

// preflight answers whoever may read anything below the mount with the version of its engine.
func (s *Server) preflight(w *reply, c call, tok *token) {
	path := strings.TrimPrefix(c.path, "sys/internal/ui/mounts/")
	known := path == s.conf.Mount || strings.HasPrefix(path, s.conf.Mount+"/")
	if !known || s.isDenied(tok, c.path) || !tok.reaches(s.conf.Mount) {
		w.fail(http.StatusForbidden, fmt.Sprintf("preflight capability check returned 403, please ensure client's policies grant access to path %q", path+"/"))
		return
	}
	w.json(http.StatusOK, s.frame(map[string]any{
		"path": s.conf.Mount + "/", "type": "kv", "description": "",
		"options": map[string]string{"version": strconv.Itoa(s.conf.KVVersion)},
	}, "system"))
}
