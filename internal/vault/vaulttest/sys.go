package vaulttest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

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
			"server_time_utc": s.conf.Now().Unix(), "cluster_name": "vaulttest",
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
	if in.Key != s.conf.UnsealKey {
		w.fail(http.StatusBadRequest, "'key' must be a valid hex or base64 string")
		return
	}
	s.sealed = false
	w.json(http.StatusOK, s.sealStatus())
}

// preflight tells whoever may read anything below the mount which version of the engine it has.
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
