package confinement

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// received is one request as it arrived at Vault.
type received struct {
	method  string
	uri     string // the request target of the request line, untouched
	rawPath string // set by net/url where the path's encoding is not the usual one
	header  string // the namespace headers, which could move the whole path
}

// judge decides on what Vault received while one request of tenant was worked on.
type judge struct {
	mount, prefix, tenant string
	kv                    int // the engine's version, 0 where Vault doesn't tell: both forms are in place then
}

var versionQuery = regexp.MustCompile(`^version=[1-9][0-9]{0,9}$`)

// verdict returns what is wrong with the requests. All must be within the tenant's place and not adobe,
// but for the tenant's Adobe credentials, as often as asked says (in each form of the engine).
func (j judge) verdict(all []received, asked int) error {
	spared := map[string]int{}
	for _, r := range all {
		if spared[r.uri]++; j.own(r) && spared[r.uri] <= asked {
			continue
		}
		if err := j.within(r); err != nil {
			return fmt.Errorf("Vault received %s %q: %w", r.method, r.uri, err)
		}
	}
	return nil
}

// ofSession reports whether the worker asks for it whatever requests there are: which form the engine
// has, and that its own token may live on. Neither names a secret.
func (j judge) ofSession(r received) bool {
	asks := r.method == "GET" && r.uri == "/v1/sys/internal/ui/mounts/"+j.mount
	renews := r.method == "PUT" && r.uri == "/v1/auth/token/renew-self"
	return r.header == "" && (asks || renews)
}

// own reports whether it is a look at the tenant's Adobe credentials, by the very path that the worker
// would take.
func (j judge) own(r received) bool {
	return r.method == "GET" && r.header == "" &&
		slices.ContainsFunc(j.places(), func(at []string) bool { return r.uri == "/"+strings.Join(at, "/")+"/adobe" })
}

// places are where the tenant's secrets are, by segment.
func (j judge) places() (all [][]string) {
	for kv, data := range map[int]string{1: "", 2: "/data"} {
		if j.kv == kv || j.kv == 0 {
			all = append(all, strings.Split("v1/"+j.mount+data+"/"+j.prefix+"/"+j.tenant, "/"))
		}
	}
	return all
}

// below returns what a path names below the tenant's place, or nothing where it isn't below it.
func (j judge) below(at []string) []string {
	for _, own := range j.places() {
		if len(at) > len(own) && slices.Equal(at[:len(own)], own) {
			return at[len(own):]
		}
	}
	return nil
}

func (j judge) within(r received) error {
	path, query, asked := strings.Cut(r.uri, "?")
	at, err := walk(path)
	below := j.below(at)
	switch {
	case err != nil:
		return err
	case r.method != "GET" || r.header != "":
		return fmt.Errorf("it isn't a plain GET: %s", r.header)
	case below == nil:
		return fmt.Errorf("it leads to %q, out of the tenant's place", at)
	case slices.ContainsFunc(below, func(s string) bool { return strings.EqualFold(s, "adobe") }):
		return fmt.Errorf("it leads to the Adobe credentials: %q", at)
	case path != "/"+strings.Join(at, "/") || r.rawPath != "":
		return fmt.Errorf("another reader may take it for another path than %q", at)
	case asked && !versionQuery.MatchString(query):
		return fmt.Errorf("it asks %q", query)
	}
	return nil
}

// walk follows a path as the freest reader would: every segment is percent-decoded once, what is then
// a separator of any system separates, "." stays, ".." goes back.
func walk(path string) (at []string, err error) {
	for raw := range strings.SplitSeq(path, "/") {
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			return nil, fmt.Errorf("segment %q: %w", raw, err)
		}
		for _, seg := range strings.FieldsFunc(decoded, func(r rune) bool { return r == '/' || r == '\\' }) {
			switch {
			case seg == ".." && len(at) > 0:
				at = at[:len(at)-1]
			case seg != "." && seg != "..":
				at = append(at, seg)
			}
		}
	}
	return at, nil
}

// TestJudge keeps the judge true: it must see what is out of place.
func TestJudge(t *testing.T) {
	t.Parallel()
	j := judge{mount: "secret", prefix: "flow/tenants", tenant: "acme", kv: 2}
	const own = "/v1/secret/data/flow/tenants/acme/"
	get := func(uri string) received { return received{method: "GET", uri: uri} }
	for _, r := range []received{get(own + "databricks/acme"), get(own + "a?version=12"), get(own + "data/metadata"), get(own + "adobe.x"), get(own + "...")} {
		if err := j.verdict([]received{get(own + "adobe"), r}, 1); err != nil {
			t.Errorf("%q: %v", r.uri, err)
		}
	}
	for _, r := range []received{
		get("/v1/secret/data/flow/tenants/globex/x"), get("/v1/secret/data/flow/tenants/acme"), get("/v1/secret/data/flow/tenants/acmes/x"), get(own),
		get(own + "../globex/x"), get(own + "%2e%2e/globex/x"), get(own + "x/..%2f..%2fglobex/x"), get(own + `..%5cglobex%5cx`), get(own + "a/../b"),
		get(own + "a//b"), get(own + "./b"), get(own + "%61"), get(own + "a%00"), get(own + "%zz"), get(own + "a/"),
		get(own + "adobe"), get(own + "ADOBE"), get(own + "x/adobe"), get(own + "adobe/x"), get(own + "%61dobe"), get(own + "x/../adobe"),
		get("/v1/sys/health"), get("/v1/auth/token/renew-self"), get("/v1/auth/token/lookup-self"), {method: "PUT", uri: own + "a"}, get("/v1/secret/metadata/flow/tenants/acme/x"), get("/v1/secret/flow/tenants/acme/x"), get("/v1/other/data/flow/tenants/acme/x"),
		get(own + "a?version=1&version=2"), get(own + "a?version=-1"), get(own + "a?list=true"), get(own + "a?version=0"), get(own + "a?"),
		{method: "LIST", uri: own + "a"}, {method: "GET", uri: own + "a", header: "other"}, {method: "GET", uri: own + "a", rawPath: "x"},
	} {
		if j.verdict([]received{get(own + "adobe"), r}, 1) == nil {
			t.Errorf("%s %q: not seen", r.method, r.uri)
		}
	}
}
