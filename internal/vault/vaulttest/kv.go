package vaulttest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
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
	v := version{data: raw, created: s.now()}
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
	s.change(path, versions, s.delete)
}

func (s *Server) delete(v *version) {
	if !v.gone() {
		v.deleted = s.now()
	}
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

// wrongPath is what a version 2 engine says to a request in the form of version 1.
const wrongPath = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API " +
	"endpoints to use. If using the Vault CLI, use 'vault kv get' for this operation."

// kv serves the KV engine; rest is the path below its mount.
func (s *Server) kv(w *reply, c call, rest string) {
	if s.conf.KVVersion == 1 {
		s.kv1(w, c, rest)
		return
	}
	kind, path, _ := strings.Cut(rest, "/")
	switch {
	case path == "":
		s.warn(w, "Non-listing operations on the root of a K/V v2 mount are not supported.")
	case kind == "data":
		s.kvData(w, c, path)
	case kind == "metadata":
		s.kvMetadata(w, c, path)
	case kind == "delete" || kind == "undelete" || kind == "destroy":
		s.kvChange(w, c, kind, path)
	default:
		s.warn(w, wrongPath)
	}
}

func (s *Server) warn(w *reply, warning string) {
	answer := s.frame(nil, "")
	answer.Warnings = []string{warning}
	w.json(http.StatusNotFound, answer)
}

func (s *Server) kv1(w *reply, c call, path string) {
	switch {
	case c.writes() && !isObject(c.body):
		w.fail(http.StatusBadRequest, "error parsing JSON")
	case c.writes():
		s.put(path, c.body)
		w.WriteHeader(http.StatusNoContent)
	case c.Method == http.MethodDelete:
		delete(s.secrets, path)
		w.WriteHeader(http.StatusNoContent)
	default:
		s.read1(w, path)
	}
}

func isObject(raw []byte) bool {
	var fields map[string]any
	return json.Unmarshal(raw, &fields) == nil && fields != nil
}

func (s *Server) read1(w *reply, path string) {
	v, _ := s.secrets[path].find(0)
	if v == nil {
		w.fail(http.StatusNotFound)
		return
	}
	answer := s.frame(v.data, "kv")
	answer.LeaseDuration = int(systemTTL.Seconds())
	w.json(http.StatusOK, answer)
}

func (s *Server) kvData(w *reply, c call, path string) {
	switch {
	case c.writes():
		s.write2(w, c, path)
	case c.Method == http.MethodDelete:
		s.change(path, []int{0}, func(v *version) { v.deleted = s.now() })
		w.WriteHeader(http.StatusNoContent)
	default:
		s.read2(w, c, path)
	}
}

func (s *Server) write2(w *reply, c call, path string) {
	var in struct {
		Data json.RawMessage `json:"data"`
	}
	if !c.decode(w, &in) {
		return
	}
	switch {
	case len(in.Data) == 0:
		w.fail(http.StatusBadRequest, "no data provided")
		return
	case !isObject(in.Data):
		w.fail(http.StatusBadRequest, "error converting input for field \"data\": '' expected a map")
		return
	}
	number := s.put(path, in.Data)
	v, _ := s.secrets[path].find(number)
	w.json(http.StatusOK, s.frame(v.metadata(number), "kv"))
}

// read2 answers a deleted or destroyed version as Vault does: 404, with metadata and without data.
func (s *Server) read2(w *reply, c call, path string) {
	number := 0
	if text := c.URL.Query().Get("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			w.fail(http.StatusBadRequest, "Field validation failed: error converting input for field \"version\"")
			return
		}
		number = n
	}
	v, number := s.secrets[path].find(number)
	if v == nil {
		w.fail(http.StatusNotFound)
		return
	}
	status, data, mountType := http.StatusOK, v.data, "kv"
	if v.gone() {
		status, data, mountType = http.StatusNotFound, nil, ""
	}
	w.json(status, s.frame(map[string]any{"data": data, "metadata": v.metadata(number)}, mountType))
}

func (s *Server) kvMetadata(w *reply, c call, path string) {
	known := s.secrets[path]
	switch {
	case c.Method == http.MethodDelete:
		delete(s.secrets, path)
		w.WriteHeader(http.StatusNoContent)
	case known == nil || c.Method != http.MethodGet:
		w.fail(http.StatusNotFound)
	default:
		versions := make(map[string]any, len(known.versions))
		for i, v := range known.versions {
			versions[strconv.Itoa(i+1)] = v.metadata(i + 1)
		}
		w.json(http.StatusOK, s.frame(map[string]any{"current_version": len(known.versions), "versions": versions}, "kv"))
	}
}

// kvChange serves delete, undelete and destroy of listed versions.
func (s *Server) kvChange(w *reply, c call, kind, path string) {
	var in struct {
		Versions []int `json:"versions"`
	}
	if !c.decode(w, &in) {
		return
	}
	if !c.writes() || len(in.Versions) == 0 {
		w.fail(http.StatusBadRequest, "no version number provided")
		return
	}
	do := map[string]func(*version){"destroy": destroy, "undelete": undelete, "delete": s.delete}[kind]
	s.change(path, in.Versions, do)
	w.WriteHeader(http.StatusNoContent)
}
