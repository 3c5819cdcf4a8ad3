package confinement

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// The verdicts of the table.
const (
	created   = "created"          // it names a secret of the tenant's own
	notFound  = "secret_not_found" // it may be asked for, and there is nothing
	forbidden = "secret_forbidden" // it leaves the tenant's place
	malformed = "invalid_request"  // it is no reference
	plaintext = "plaintext_secret" // likewise, and may be the secret itself

	// elsewhere is forbidden where the reference begins with the very mount and prefix of the engine, and notFound
	// where these are mere names.
	elsewhere = "elsewhere"
)

// attempt is a reference as it stands in a request, and what becomes of it.
type attempt struct {
	name string
	json string // the value of accessToken
	want string
}

func ref(name, text, want string) attempt { return attempt{name, quoted(text), want} }

// path is an attempt to read the field accessToken at a path.
func path(name, p, want string) attempt { return ref(name, "vault:"+p+"#accessToken", want) }

// attempts is the table of hostile references, with some good ones that show that the way is open.
func attempts() []attempt {
	return append(append(append(append(paths(), encodings()...), adobes()...), versions()...), fields()...)
}

func paths() []attempt {
	return []attempt{
		path("own", "databricks/acme", created),
		path("own, dots in names", "data.bricks/ac..me", notFound),
		path("dot dot", "..", forbidden),
		path("dot", ".", forbidden),
		path("three dots", ".../x", notFound),
		path("nothing", "", forbidden),
		path("neighbour", "../globex/databricks/globex", forbidden),
		path("neighbour from within", "databricks/../../globex/databricks/globex", forbidden),
		path("neighbour, deep", "a/b/c/../../../../globex/databricks/globex", forbidden),
		path("back into the own", "../acme/databricks/acme", forbidden),
		path("there and back", "databricks/../databricks/acme", forbidden),
		path("up at the end", "databricks/acme/..", forbidden),
		path("up to the root", strings.Repeat("../", 12)+"sys/health", forbidden),
		path("stay", "./databricks/acme", forbidden),
		path("stay within", "databricks/./acme", forbidden),
		path("stay at the end", "databricks/acme/.", forbidden),
		path("absolute", "/databricks/acme", forbidden),
		path("absolute from the mount", "/secret/data/flow/tenants/globex/databricks/globex", forbidden),
		path("absolute from the API", "/v1/secret/data/flow/tenants/globex/databricks/globex", forbidden),
		path("whole path of the neighbour", "secret/data/flow/tenants/globex/databricks/globex", elsewhere),
		path("whole path of the neighbour without the mount", "flow/tenants/globex/databricks/globex", elsewhere),
		path("whole path of the neighbour behind the own", "secret/data/flow/tenants/acme/flow/tenants/globex/databricks/globex", elsewhere),
		path("path from the API of another mount", "v1/kv/data/flow/tenants/acme/databricks/acme", notFound),
		path("whole path of the neighbour from the API", "v1/secret/data/flow/tenants/globex/databricks/globex", elsewhere),
		path("whole path of a longer name", "secret/data/flow/tenants/acme2/databricks/acme", elsewhere),
		path("whole path of the neighbour, metadata", "secret/metadata/flow/tenants/globex/databricks/globex", elsewhere),
		path("neighbour's name", "globex/databricks/globex", notFound),
		path("slash", "/", forbidden),
		path("two slashes", "//", forbidden),
		path("host", "//evil.example.com/x", forbidden),
		path("URL", "https://evil.example.com/x", forbidden),
		path("trailing slash", "databricks/acme/", forbidden),
		path("doubled slash", "databricks//acme", forbidden),
		path("sys", "sys/health", notFound),
		path("sys above", "../../../../sys/seal-status", forbidden),
		path("auth", "auth/token/lookup-self", notFound),
		path("auth above", "../../../../auth/token/lookup-self", forbidden),
		path("cubbyhole", "cubbyhole/x", notFound),
		path("cubbyhole above", "../../../../cubbyhole/x", forbidden),
		path("identity above", "../../../../identity/entity/id", forbidden),
		path("data", "data/databricks/acme", malformed),
		path("metadata", "metadata/databricks/acme", notFound),
		path("metadata above", "../../../metadata/flow/tenants/acme/databricks/acme", forbidden),
		path("data above", "../../../data/flow/tenants/globex/databricks/globex", forbidden),
		path("KV 1 form of the neighbour", "../../../flow/tenants/globex/databricks/globex", forbidden),
		path("destroy above", "../../../destroy/flow/tenants/acme/databricks/acme", forbidden),
		path("star", "*", forbidden),
		path("star within", "databricks/*", forbidden),
		path("plus", "+/databricks/acme", forbidden),
		path("plus within", "databricks/+", forbidden),
		path("template", "{{identity.entity.id}}/x", forbidden),
		path("home", "~/x", forbidden),
		path("variable", "$HOME/x", forbidden),
		path("matrix parameter", "databricks;x=1/acme", forbidden),
		path("dots and matrix", "..;/globex/databricks/globex", forbidden),
		path("very long segment", strings.Repeat("a", 2000), malformed),
		path("very many segments", strings.Repeat("a/", 600)+"a", malformed),
		path("long, yet allowed", strings.Repeat("a/", 400)+"a", notFound),
		path("long way up", strings.Repeat("../", 330)+"x", forbidden),
	}
}

func encodings() []attempt {
	return []attempt{
		path("encoded dots", "%2e%2e/globex/databricks/globex", forbidden),
		path("encoded dots, upper case", "%2E%2E/globex/databricks/globex", forbidden),
		path("half encoded dots", ".%2e/globex/databricks/globex", forbidden),
		path("encoded slash", "..%2fglobex%2fdatabricks%2fglobex", forbidden),
		path("all encoded", "%2e%2e%2fglobex", forbidden),
		path("encoded twice", "%252e%252e%252fglobex", forbidden),
		path("encoded three times", "%25252e%25252e/globex", forbidden),
		path("overlong dots", "%c0%ae%c0%ae/globex", forbidden),
		path("overlong slash", "..%c0%afglobex", forbidden),
		path("overlong slash of three bytes", "..%e0%80%afglobex", forbidden),
		path("overlong bytes", "\xc0\xae\xc0\xae/globex", malformed),
		path("IIS encoding", "%u002e%u002e/globex", forbidden),
		path("HTML entity", "&#46;&#46;/globex", malformed),
		path("encoded letter", "d%61tabricks/acme", forbidden),
		path("bare percent", "databricks%/acme", forbidden),
		path("bad percent", "databricks%zz/acme", forbidden),
		path("backslash", `..\globex\databricks\globex`, forbidden),
		path("backslash within", `databricks\acme`, forbidden),
		path("encoded backslash", "..%5cglobex", forbidden),
		path("drive", `C:\x`, forbidden),
		path("NUL", "databricks/acme\x00", forbidden),
		path("NUL within", "databricks/acme\x00/../../globex", forbidden),
		path("encoded NUL", "databricks/acme%00", forbidden),
		path("line break", "databricks/acme\n", forbidden),
		path("request splitting", "x HTTP/1.1\r\nX-Vault-Namespace: root\r\n\r\nGET /v1/sys/health", forbidden),
		path("encoded line break", "x%0d%0aX-Vault-Namespace:%20root", forbidden),
		path("tab", "databricks/\tacme", forbidden),
		path("blank", "databricks/ac me", forbidden),
		path("blank before", " databricks/acme", forbidden),
		path("escape", "databricks/\x1b[2Jacme", forbidden),
		path("delete", "databricks/\x7facme", forbidden),
		path("C1 control", "databricks/\u0085acme", forbidden),
		path("fullwidth dots", "\uff0e\uff0e/globex", forbidden),
		path("one dot leader", "\u2024\u2024/globex", forbidden),
		path("two dot leader", "\u2025/globex", forbidden),
		path("ideographic dots", "\u3002\u3002/globex", forbidden),
		path("halfwidth dots", "\uff61\uff61/globex", forbidden),
		path("fullwidth slash", "..\uff0fglobex", forbidden),
		path("division slash", "..\u2215globex", forbidden),
		path("fraction slash", "..\u2044globex", forbidden),
		path("fullwidth backslash", "..\uff3cglobex", forbidden),
		path("zero width within dots", ".\u200b./globex", forbidden),
		path("soft hyphen", "databricks\u00ad/acme", forbidden),
		path("byte order mark", "\ufeffdatabricks/acme", forbidden),
		path("right to left", "\u202edatabricks/acme", forbidden),
		path("Cyrillic a", "databricks/\u0430cme", forbidden),
		path("combining mark", "databricks/acme\u0301", forbidden),
		path("Kelvin sign", "databric\u212as/acme", forbidden),
		path("no UTF-8", "databricks/\xff", malformed),
		{"dots in JSON escapes", `"vault:\u002e\u002e\u002fglobex\u002fdatabricks\u002fglobex#accessToken"`, forbidden},
		{"slashes in JSON escapes", `"vault:..\/globex\/databricks\/globex#accessToken"`, forbidden},
		{"own in JSON escapes", `"vault:d\u0061tabricks\/acme#accessToken"`, created},
		{"lone surrogate", `"vault:databricks/acme\ud800#accessToken"`, forbidden},
		{"given twice", goodRef + `,"accessToken":"vault:../globex/databricks/globex#accessToken"`, forbidden},
		{"given twice, both good", goodRef + `,"accessToken":"vault:databricks/shared#accessToken"`, malformed},
		{"given twice in other cases", goodRef + `,"AccessToken":"vault:../globex/databricks/globex#accessToken"`, malformed},
		{"object", `{"path":"../globex/databricks/globex","field":"accessToken"}`, plaintext},
		{"list", `["vault:databricks/acme#accessToken","vault:../globex/x#y"]`, plaintext},
	}
}

func adobes() []attempt {
	at := func(name, p, want string) attempt { return ref(name, "vault:"+p+"#accessToken", want) }
	return []attempt{
		at("adobe", "adobe", forbidden),
		at("Adobe", "Adobe", forbidden),
		at("ADOBE", "ADOBE", forbidden),
		at("aDoBe", "aDoBe", forbidden),
		at("./adobe", "./adobe", forbidden),
		at("/adobe", "/adobe", forbidden),
		at("//adobe", "//adobe", forbidden),
		at("adobe/", "adobe/", forbidden),
		at("adobe/.", "adobe/.", forbidden),
		at("adobe//", "adobe//", forbidden),
		at("adobe below", "x/adobe", forbidden),
		at("below adobe", "adobe/x", forbidden),
		at("adobe around", "x/../adobe", forbidden),
		at("adobe of the neighbour", "../globex/adobe", forbidden),
		at("adobe from the tenant", "../acme/adobe", forbidden),
		at("encoded adobe", "%61dobe", forbidden),
		at("encoded adobe, all", "%61%64%6f%62%65", forbidden),
		at("encoded twice", "%2561dobe", forbidden),
		at("adobe NUL", "adobe\x00", forbidden),
		at("adobe blank", "adobe ", forbidden),
		at("adobe matrix", "adobe;x", forbidden),
		at("adobe, Cyrillic", "\u0430dobe", forbidden),
		at("adobe, fullwidth", "\uff41dobe", forbidden),
		at("adobe, soft hyphen", "ado\u00adbe", forbidden),
		at("adobe, zero width joiner", "adobe\u200d", forbidden),
		at("adobe, version", "adobe?version=1", forbidden),
		at("adobe of KV 2", "data/adobe", forbidden),
		at("adobe's metadata", "metadata/adobe", forbidden),
		{"adobe in JSON escapes", `"vault:\u0061dobe#accessToken"`, forbidden},
		at("not adobe", "adobe2", notFound),
		at("not adobe either", "adobe.", notFound),
	}
}

func versions() []attempt {
	at := func(name, query, want string) attempt {
		return ref("version "+name, "vault:databricks/acme?"+query+"#accessToken", want)
	}
	return []attempt{
		at("1", "version=1", created),
		at("2", "version=2", notFound),
		at("largest", "version=2147483647", notFound),
		at("0", "version=0", malformed),
		at("negative", "version=-1", malformed),
		at("with a sign", "version=+1", malformed),
		at("with a leading zero", "version=01", malformed),
		at("too large for 31 bits", "version=2147483648", malformed),
		at("too large for 64 bits", "version=18446744073709551617", malformed),
		at("huge", "version="+strings.Repeat("9", 500), malformed),
		at("hexadecimal", "version=0x1", malformed),
		at("exponent", "version=1e0", malformed),
		at("fraction", "version=1.0", malformed),
		at("underscore", "version=1_0", malformed),
		at("Arabic digit", "version=\u0661", malformed),
		at("fullwidth digit", "version=\uff11", malformed),
		at("no number", "version=latest", malformed),
		at("empty", "version=", malformed),
		at("no value", "version", malformed),
		at("nothing", "", malformed),
		at("twice", "version=1&version=2", malformed),
		at("twice by question mark", "version=1?version=2", malformed),
		at("semicolon", "version=1;version=2", malformed),
		at("in upper case", "Version=1", malformed),
		at("encoded", "version=%31", malformed),
		at("encoded name", "%76ersion=1", malformed),
		at("blank", "version= 1", malformed),
		at("line break", "version=1\n", malformed),
		at("NUL", "version=1\x00", malformed),
		at("other parameter", "list=true", malformed),
		at("one more parameter", "version=1&list=true", malformed),
		at("path after it", "version=1/../../globex", malformed),
		ref("version after the field", "vault:databricks/acme#accessToken?version=1", malformed),
		path("encoded question mark", "databricks/acme%3fversion=1", forbidden),
		path("encoded hash", "databricks/acme%23x", forbidden),
		ref("question mark alone, other tenant", "vault:?../globex/databricks/globex#accessToken", malformed),
	}
}

func fields() []attempt {
	at := func(name, field, want string) attempt {
		return ref("field "+name, "vault:databricks/acme#"+field, want)
	}
	return []attempt{
		at("empty", "", malformed),
		at("hash", "#", malformed),
		at("two", "accessToken#x", malformed),
		at("with a path", "../../globex/databricks/globex#accessToken", malformed),
		at("slash", "a/b", malformed),
		at("dots", "..", notFound),
		at("dotted", "data.accessToken", notFound),
		at("blank", "access Token", malformed),
		at("star", "*", malformed),
		at("NUL", "accessToken\x00", malformed),
		at("line break", "accessToken\n", malformed),
		at("encoded", "%61ccessToken", malformed),
		at("Cyrillic", "\u0430ccessToken", malformed),
		at("other case", "AccessToken", notFound),
		at("very long", strings.Repeat("f", 257), malformed),
		at("longest", strings.Repeat("f", 256), notFound),
		at("of the answer", "lease_id", notFound),
		at("of the engine", "metadata", notFound),
		ref("no field", "vault:databricks/acme", malformed),
		ref("nothing but the scheme", "vault:", malformed),
		ref("scheme in upper case", "VAULT:databricks/acme#accessToken", malformed),
		ref("scheme with slashes", "vault://databricks/acme#accessToken", forbidden),
		ref("blank before the scheme", " vault:databricks/acme#accessToken", malformed),
		ref("scheme twice", "vault:vault:databricks/acme#accessToken", forbidden),
		ref("line break before the scheme", "\nvault:databricks/acme#accessToken", malformed),
		ref("no scheme", "databricks/acme#accessToken", plaintext),
		ref("other scheme", "file:///etc/passwd#x", plaintext),
		ref("empty", "", plaintext),
		{"null", "null", malformed},
		{"number", "1", plaintext},
	}
}

// engines are the ways in which Vault may be set up.
var engines = map[string]engine{
	"KV 2":                    {},
	"KV 1":                    {kv: 1},
	"KV 2 that doesn't tell":  {silent: true},
	"KV 1 that doesn't tell":  {kv: 1, silent: true},
	"KV 2 at another place":   {mount: "kv/team-a", prefix: "p"},
	"KV 1 in a mount of data": {kv: 1, mount: "data", prefix: "data/metadata"},
}

func TestHostileReferences(t *testing.T) {
	t.Parallel()
	for name, e := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, e)
			for _, a := range attempts() {
				want := a.want
				if e.kv == 1 && want == created && strings.HasPrefix(a.name, "version") {
					want = notFound // it has no versions
				}
				if want == elsewhere {
					want = notFound
					if e.mount == "" {
						want = forbidden
					}
				}
				out := w.handle(t, nil, request(a.json, goodDomain))
				if got := reason(out); got != want {
					t.Errorf("%s, %.200s: %s, want %s: %+v", a.name, a.json, got, want, out.Result)
				}
				w.takeAdvice(t, a, out)
			}
			w.checkPosted(t)
		})
	}
}

// takeAdvice sends the reference that a failure quotes, if it does: it must be one of the tenant's own.
func (w *world) takeAdvice(t *testing.T, a attempt, out provision.Outcome) {
	t.Helper()
	if out.Result.Error == nil {
		return
	}
	_, advice, ok := strings.Cut(out.Result.Error.Message, `; send "vault:`)
	if !ok {
		return
	}
	advice, _, _ = strings.Cut(advice, `"`)
	again := w.handle(t, nil, request(quoted("vault:"+advice), goodDomain))
	if got := reason(again); got != created && got != notFound && !strings.HasSuffix(advice, "#<field>") || strings.Contains(advice, w.judge.prefix+"/") {
		t.Errorf("%s, %.200s: the advice %q leads to %s", a.name, a.json, advice, got)
	}
}

// checkPosted expects that no token but the tenant's own went to the Flow Service.
func (w *world) checkPosted(t testing.TB) {
	t.Helper()
	for _, r := range w.flow.Requests() {
		if token := r.AccessToken.Reveal(); token != "" && token != "dapi-of-acme" && token != "dapi-shared-of-acme" {
			t.Errorf("the Flow Service got %q", token)
		}
		if org := r.Header.Get("x-gw-ims-org-id"); org != "acme@AdobeOrg" {
			t.Errorf("a call on behalf of %q", org)
		}
	}
}

func TestTableIsLargeAndDistinct(t *testing.T) {
	t.Parallel()
	seen, hostile := map[string]string{}, 0
	for _, a := range attempts() {
		if seen[a.json] != "" {
			t.Errorf("%s and %s are the same", a.name, seen[a.json])
		}
		seen[a.json] = a.name
		if a.want != created {
			hostile++
		}
	}
	if hostile < 60 {
		t.Errorf("%d hostile references", hostile)
	}
	t.Logf("%d references, %d of them hostile", len(seen), hostile)
}
