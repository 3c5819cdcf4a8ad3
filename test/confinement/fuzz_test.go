package confinement

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// fuzzWorlds are one world for each engine, so that the fuzzer finds what only one of them lets out.
func fuzzWorlds(f *testing.F) []*world {
	f.Helper()
	var all []*world
	for _, e := range engines {
		all = append(all, newWorld(f, e))
	}
	return all
}

// each has one of the worlds deal with an input, in turn.
type each struct {
	worlds []*world
	n      int
}

func (e *each) next() *world {
	e.n++
	w := e.worlds[e.n%len(e.worlds)]
	if e.n%1000 < len(e.worlds) {
		w.flow.Reset() // it keeps what was made
	}
	return w
}

// FuzzReference puts a reference into an otherwise good request.
func FuzzReference(f *testing.F) {
	for _, a := range attempts() {
		f.Add(a.json)
		var text string
		if json.Unmarshal([]byte(a.json), &text) == nil {
			f.Add(text)
			f.Add(strings.TrimSuffix(strings.TrimPrefix(text, provision.RefScheme), "#accessToken"))
		}
	}
	turn := each{worlds: fuzzWorlds(f)}
	f.Fuzz(func(t *testing.T, ref string) {
		w := turn.next()
		w.handle(t, nil, request(quoted(ref), goodDomain))
		w.handle(t, nil, request(quoted(provision.RefScheme+ref+"#accessToken"), goodDomain))
		w.handle(t, nil, request(ref, goodDomain)) // as JSON, so that it may close the string and go on
		w.checkPosted(t)
	})
}

// FuzzMessage tries whole messages: body and headers.
func FuzzMessage(f *testing.F) {
	for _, a := range attempts() {
		f.Add(request(a.json, goodDomain), "Content-Type", "application/json", "x")
	}
	for _, m := range messages() {
		for name, values := range m.headers {
			f.Add([]byte(m.body), name, values[0], "r-1")
		}
		f.Add([]byte(m.body), "ce-tenant", "globex", "")
	}
	turn := each{worlds: fuzzWorlds(f)}
	f.Fuzz(func(t *testing.T, body []byte, name, value, id string) {
		w := turn.next()
		headers := map[string][]string{name: {value}}
		if id != "" {
			headers["ce-id"], headers["ce-source"] = []string{id}, []string{value}
		}
		w.handle(t, headers, body)
		w.checkPosted(t)
	})
}

// FuzzResolve asks Vault's client for references that no decoder has seen, of tenants that no subject
// named.
func FuzzResolve(f *testing.F) {
	for _, p := range []string{"databricks/acme", "../globex/databricks/globex", "%2e%2e/globex", "adobe", "x/../adobe", "", "a//b", "metadata/x", "a?version=1", "a#b"} {
		for _, tenant := range []string{"acme", "globex", "..", "acme/..", "acme/../globex", "%2e%2e", "ACME", "", "adobe", "acme?"} {
			f.Add(tenant, p, "accessToken", 0)
		}
		f.Add("acme", p, "", -1)
		f.Add("acme", p, "a#b", 1)
	}
	turn := each{worlds: fuzzWorlds(f)}
	f.Fuzz(func(t *testing.T, tenant, path, field string, version int) {
		w := turn.next()
		ref := provision.SecretRef{Path: path, Field: field, Version: version}
		_, _ = w.secrets.Resolve(context.Background(), tenant, ref, false)
		_, _ = w.Credentials(context.Background(), tenant, true)
		j := w.judge
		j.tenant = tenant
		n, err := w.judged(j)
		if err != nil {
			t.Errorf("tenant %q, %+v: %v", tenant, ref, err)
		}
		if !provision.ValidTenant(tenant) && n > 0 {
			t.Errorf("Vault received %d requests for %q, which is no tenant", n, tenant)
		}
	})
}
