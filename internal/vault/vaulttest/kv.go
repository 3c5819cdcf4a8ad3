package vaulttest

import (
	"encoding/json"
	"time"
)

// maxVersions is how many versions of a secret Vault keeps by default.
const maxVersions = 10

// secret is every version of a secret; a version 1 engine keeps one.
type secret struct {
	versions []version // the first is version 1
}

type version struct {
	data      json.RawMessage
	created   time.Time
	deleted   time.Time // zero unless deleted
	destroyed bool
}

func (v version) gone() bool { return v.destroyed || !v.deleted.IsZero() }

func (v version) metadata(number int) map[string]any {
	deletion := ""
	if !v.deleted.IsZero() {
		deletion = v.deleted.UTC().Format(time.RFC3339Nano)
	}
	return map[string]any{
		"version": number, "created_time": v.created.UTC().Format(time.RFC3339Nano),
		"deletion_time": deletion, "destroyed": v.destroyed, "custom_metadata": nil,
	}
}

// find returns the version of the given number, the newest for 0 or less, and its number.
func (s *secret) find(number int) (*version, int) {
	if s == nil {
		return nil, 0
	}
	if number <= 0 {
		number = len(s.versions)
	}
	if number > len(s.versions) || number <= len(s.versions)-maxVersions {
		return nil, 0
	}
	return &s.versions[number-1], number
}

// Put writes a secret at path, relative to the mount, and returns its version: 1 for a new one,
// always 0 in a version 1 engine. Data that JSON can't hold is not written; the version is then 0
// too.
func (s *Server) Put(path string, data map[string]any) int {
	raw, err := json.Marshal(data)
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(path, raw)
}

func (s *Server) put(path string, raw json.RawMessage) int {
	v := version{data: raw, created: s.conf.Now()}
	if s.conf.KVVersion == 1 {
		s.secrets[path] = &secret{versions: []version{v}}
		return 0
	}
	if s.secrets[path] == nil {
		s.secrets[path] = &secret{}
	}
	s.secrets[path].versions = append(s.secrets[path].versions, v)
	return len(s.secrets[path].versions)
}

// Delete deletes the given versions of a secret, the newest if none is given, in such a way that
// Vault could bring them back. In a version 1 engine it removes the secret.
func (s *Server) Delete(path string, versions ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conf.KVVersion == 1 {
		delete(s.secrets, path)
		return
	}
	if len(versions) == 0 {
		versions = []int{0}
	}
	s.change(path, versions, func(v *version) {
		if !v.gone() {
			v.deleted = s.conf.Now()
		}
	})
}

// Destroy removes the data of the given versions of a secret for good.
func (s *Server) Destroy(path string, versions ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(path, versions, destroy)
}

func destroy(v *version) { v.destroyed, v.data = true, nil }

func undelete(v *version) { v.deleted = time.Time{} }

func (s *Server) change(path string, versions []int, do func(*version)) {
	for _, n := range versions {
		if v, _ := s.secrets[path].find(n); v != nil {
			do(v)
		}
	}
}
