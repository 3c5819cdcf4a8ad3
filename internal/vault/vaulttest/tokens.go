package vaulttest

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Role lets a machine log in. Which of RoleID and JWT is set says how.
type Role struct {
	Mount  string // of the auth method; default "approle" with a RoleID, else "kubernetes"
	Name   string // what kubernetes and jwt logins name
	RoleID string // approle: who logs in
	// SecretID and JWT are the credential itself, compared as a whole: no signature is checked.
	SecretID string
	JWT      string

	TTL          time.Duration // of a token; 0 means 768 h, as in Vault
	MaxTTL       time.Duration // beyond which no renewal extends it; 0 means 768 h
	NonRenewable bool
	Allow        []string // paths as in a policy, "*" at the end for anything; empty means the whole KV engine
}

// systemTTL is Vault's own default of both TTLs.
const systemTTL = 768 * time.Hour

// SetRole adds a role, or replaces the one of the same mount and name (approle: role id). Tokens
// already issued stay as they are.
func (s *Server) SetRole(r Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	method := "kubernetes"
	if r.RoleID != "" {
		method = "approle"
	}
	r.Mount = cmp.Or(r.Mount, method)
	r.TTL = cmp.Or(r.TTL, systemTTL)
	r.MaxTTL = cmp.Or(r.MaxTTL, systemTTL)
	if len(r.Allow) == 0 {
		r.Allow = []string{s.conf.Mount + "/*"}
	}
	s.roles[r.Mount+"/"+cmp.Or(r.RoleID, r.Name)] = r
}

// NewToken returns a token as a login with r would. Only the TTLs, NonRenewable and Allow of r count.
func (s *Server) NewToken(r Role) string {
	r.Mount, r.Name = "token", "create"
	s.SetRole(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue(s.roles["token/create"], "auth/token/create").id
}

// Revoke ends a token. It does nothing with a token that it does not know.
func (s *Server) Revoke(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, id)
}

// RevokeAll ends every token but root.
func (s *Server) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.tokens {
		if !t.root {
			delete(s.tokens, id)
		}
	}
}

// token is what a token may do.
type token struct {
	id, accessor, path string
	root               bool
	allow              []string
	ttl                time.Duration
	issued             time.Time
	expires            time.Time // zero for root, which never ends
	limit              time.Time // no renewal goes beyond
	renewable          bool
}

// reaches reports whether the token may do anything below mount.
func (t *token) reaches(mount string) bool {
	if t.root {
		return true
	}
	for _, p := range t.allow {
		if strings.HasPrefix(p, mount+"/") || p == "*" {
			return true
		}
	}
	return false
}

func (t *token) remaining(now time.Time) int {
	if t.expires.IsZero() {
		return 0
	}
	return int(t.expires.Sub(now) / time.Second)
}

func (s *Server) unique(format string) string {
	s.serial++
	return fmt.Sprintf(format, s.serial)
}

func (s *Server) issue(r Role, path string) *token {
	now := s.now()
	t := &token{
		id:       s.unique("hvs.vaulttest%024d"),
		accessor: s.unique("accessor%016d"),
		path:     path, allow: r.Allow, ttl: r.TTL, issued: now,
		expires: now.Add(min(r.TTL, r.MaxTTL)), limit: now.Add(r.MaxTTL), renewable: !r.NonRenewable,
	}
	s.tokens[t.id] = t
	return t
}

// tokenOf returns the caller's token, nil if it is unknown or over.
func (s *Server) tokenOf(c call) *token {
	t := s.tokens[c.token]
	if t != nil && !t.expires.IsZero() && !s.now().Before(t.expires) {
		delete(s.tokens, t.id)
		return nil
	}
	return t
}

// loginMount returns the auth mount of a login. A path where nothing is enabled is no login.
func (s *Server) loginMount(c call) (string, bool) {
	path, ok := strings.CutPrefix(c.path, "auth/")
	mount, isLogin := strings.CutSuffix(path, "/login")
	if !ok || !isLogin || !c.writes() {
		return "", false
	}
	for _, r := range s.roles {
		if r.Mount == mount && mount != "token" {
			return mount, true
		}
	}
	return "", false
}

// login issues a token, or refuses as the method's plugin does.
func (s *Server) login(w *reply, c call, mount string) {
	var in struct {
		Role     string `json:"role"`
		JWT      string `json:"jwt"`
		RoleID   string `json:"role_id"`
		SecretID string `json:"secret_id"`
	}
	if !c.decode(w, &in) {
		return
	}
	name := mount + "/" + cmp.Or(in.RoleID, in.Role)
	role, known := s.roles[name]
	switch {
	case s.locked(name):
		w.fail(http.StatusForbidden, "permission denied")
	case in.RoleID != "" && known && role.SecretID != "" && in.SecretID == "":
		w.fail(http.StatusBadRequest, "missing secret_id")
	case in.RoleID != "" && known && role.SecretID != in.SecretID:
		s.countRefusal(name)
		w.fail(http.StatusBadRequest, "invalid role or secret ID")
	case in.RoleID != "" && !known:
		w.fail(http.StatusBadRequest, "invalid role or secret ID")
	case !known && mount == "kubernetes":
		w.fail(http.StatusBadRequest, fmt.Sprintf("invalid role name %q", in.Role))
	case !known:
		w.fail(http.StatusBadRequest, fmt.Sprintf("role %q could not be found", in.Role))
	case in.RoleID == "" && (role.JWT == "" || role.JWT != in.JWT) && mount == "kubernetes":
		w.fail(http.StatusForbidden, "permission denied")
	case in.RoleID == "" && (role.JWT == "" || role.JWT != in.JWT):
		w.fail(http.StatusBadRequest, "error validating token: no known key successfully validated the token signature")
	default:
		delete(s.refused, name)
		t := s.issue(role, "auth/"+mount+"/login")
		s.answerAuth(w, t, t.issued)
	}
}

// answerAuth answers with t and what is left of it at the time now.
func (s *Server) answerAuth(w *reply, t *token, now time.Time) {
	answer := s.frame(nil, "")
	answer.Auth = map[string]any{
		"client_token": t.id, "accessor": t.accessor, "policies": []string{"default"},
		"token_policies": []string{"default"}, "metadata": nil, "entity_id": "", "token_type": "service",
		"orphan": true, "num_uses": 0, "mfa_requirement": nil,
		"lease_duration": int(t.expires.Sub(now).Round(time.Second) / time.Second), "renewable": t.renewable,
	}
	w.json(http.StatusOK, answer)
}

// tokenCall serves what is below auth/token/.
func (s *Server) tokenCall(w *reply, c call, t *token) {
	switch op := strings.TrimPrefix(c.path, "auth/token/"); {
	case op == "lookup-self" && c.Method == http.MethodGet:
		w.json(http.StatusOK, s.frame(s.describe(t), "token"))
	case op == "renew-self" && c.writes():
		s.renew(w, t)
	case op == "revoke-self" && c.writes():
		delete(s.tokens, t.id)
		w.WriteHeader(http.StatusNoContent)
	case op == "revoke" && c.writes():
		s.revokeCall(w, c)
	default:
		w.fail(http.StatusNotFound, multi("unsupported path"))
	}
}

func (s *Server) revokeCall(w *reply, c call) {
	var in struct {
		Token string `json:"token"`
	}
	if !c.decode(w, &in) {
		return
	}
	if in.Token == "" {
		w.fail(http.StatusBadRequest, "missing token ID")
		return
	}
	delete(s.tokens, in.Token)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) describe(t *token) map[string]any {
	var expires any
	if !t.expires.IsZero() {
		expires = t.expires.UTC().Format(time.RFC3339Nano)
	}
	d := map[string]any{
		"id": t.id, "accessor": t.accessor, "path": t.path, "type": "service", "orphan": true,
		"policies": []string{"default"}, "meta": nil, "num_uses": 0, "entity_id": "", "explicit_max_ttl": 0,
		"creation_time": t.issued.Unix(), "creation_ttl": int(t.ttl / time.Second), "display_name": "vaulttest",
		"expire_time": expires, "ttl": t.remaining(s.now()),
	}
	if !t.root {
		d["renewable"] = t.renewable
	}
	return d
}

// renew extends a token to its TTL from now, never beyond its limit.
func (s *Server) renew(w *reply, t *token) {
	if t.root {
		w.fail(http.StatusBadRequest, "invalid lease ID")
		return
	}
	if !t.renewable {
		w.fail(http.StatusBadRequest, "lease is not renewable")
		return
	}
	now := s.now()
	t.expires = now.Add(t.ttl)
	if t.expires.After(t.limit) {
		t.expires = t.limit
	}
	s.answerAuth(w, t, now)
}

// Vault's defaults for the lockout of AppRole logins.
const (
	lockThreshold = 5
	lockDuration  = 15 * time.Minute // from the refusal that reached the threshold
	lockReset     = 15 * time.Minute // without a refusal, after which counting begins at zero
)

// refusals are the refused logins of one role.
type refusals struct {
	count int
	last  time.Time
}

// locked reports whether logins of a role are refused whatever they bring. Those are not counted.
func (s *Server) locked(role string) bool {
	r := s.refused[role]
	return r.count >= lockThreshold && s.now().Sub(r.last) < lockDuration
}

// countRefusal counts a wrong secret id.
func (s *Server) countRefusal(role string) {
	now, r := s.now(), s.refused[role]
	if now.Sub(r.last) > lockReset {
		r.count = 0
	}
	s.refused[role] = refusals{count: r.count + 1, last: now}
}
