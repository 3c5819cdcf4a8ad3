package event

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestDataRules(t *testing.T) {
	t.Parallel()
	const (
		invalid   = provision.ReasonInvalidRequest
		plaintext = provision.ReasonPlaintextSecret
		forbidden = provision.ReasonSecretForbidden
	)
	for name, c := range map[string]struct {
		path   string
		value  any
		reason provision.Reason
		want   string
	}{
		"no sandbox":             {"sandbox", absent{}, invalid, "/data/sandbox: required"},
		"empty sandbox":          {"sandbox", "", invalid, "/data/sandbox: must match ^[a-z0-9][a-z0-9-]{0,255}$"},
		"upper-case sandbox":     {"sandbox", "Prod", invalid, "/data/sandbox: must match"},
		"sandbox, line break":    {"sandbox", "prod\n", invalid, "/data/sandbox: must match"},
		"long sandbox":           {"sandbox", strings.Repeat("a", 257), invalid, "/data/sandbox: must match"},
		"number as sandbox":      {"sandbox", 1, invalid, "/data/sandbox: got number, want string"},
		"no name":                {"name", absent{}, invalid, "/data/name: required"},
		"null name":              {"name", nil, invalid, "/data/name: required; null is the same as leaving it out"},
		"empty name":             {"name", "", invalid, "/data/name: 0 characters long; want at least 1"},
		"long name in bytes":     {"name", strings.Repeat("é", 128), invalid, "/data/name: 256 bytes long; at most 255"},
		"blank before name":      {"name", " a", invalid, "/data/name: has blanks at its ends"},
		"blank after name":       {"name", "a\u00a0", invalid, "/data/name: has blanks at its ends"},
		"control in name":        {"name", "a\u0085b", invalid, "/data/name: holds a control character"},
		"long description":       {"description", strings.Repeat("é", 257), invalid, "/data/description: 514 bytes long"},
		"mark in description":    {"description", "x [flow-worker 0]", invalid, `/data/description: must not contain "[flow-worker"`},
		"no auth":                {"auth", absent{}, invalid, "/data/auth: required"},
		"no spec name":           {"auth.specName", absent{}, invalid, "/data/auth/specName: required"},
		"empty spec name":        {"auth.specName", "", invalid, "/data/auth/specName: 0 characters"},
		"list as params":         {"auth.params", []any{secret}, invalid, "/data/auth/params: got array, want object"},
		"no domain":              {"auth.params.domain", absent{}, invalid, "/data/auth/params/domain: required"},
		"no cluster":             {"auth.params.clusterId", absent{}, invalid, "/data/auth/params/clusterId: required"},
		"no database":            {"auth.params.database", absent{}, invalid, "/data/auth/params/database: required"},
		"empty database":         {"auth.params.database", "", invalid, "/data/auth/params/database: 0 characters"},
		"number as catalog":      {"auth.params.catalog", 3, invalid, "/data/auth/params/catalog: got number"},
		"spec id no UUID":        {"connectionSpec.id", "databricks", invalid, "/data/connectionSpec/id: must match"},
		"no spec version":        {"connectionSpec.version", absent{}, invalid, "/data/connectionSpec/version: required"},
		"other ifExists":         {"ifExists", "maybe", invalid, `/data/ifExists: want one of "create", "adopt", "reject"`},
		"reference elsewhere":    {"auth.params.database", "vault:a#b", invalid, `/data/auth/params/database: begins with "vault:"`},
		"reference in unknown":   {"more", map[string]any{"a": []any{"vault:a#b"}}, invalid, `/data/more: begins with "vault:"`},
		"no token":               {"auth.params.accessToken", absent{}, invalid, "/data/auth/params/accessToken: required"},
		"null token":             {"auth.params.accessToken", nil, invalid, "/data/auth/params/accessToken: required; null is the same as leaving it out"},
		"malformed reference":    {"auth.params.accessToken", "vault:" + secret, invalid, "/data/auth/params/accessToken: malformed secret reference"},
		"literal":                {"auth.params.accessToken", secret, plaintext, "/data/auth/params/accessToken: not a secret reference; write the secret to Vault"},
		"literal in an object":   {"auth.params.accessToken", map[string]any{"value": secret}, plaintext, "/data/auth/params/accessToken: not a secret reference"},
		"literal number":         {"auth.params.accessToken", 12345, plaintext, "/data/auth/params/accessToken: not a secret reference"},
		"empty token":            {"auth.params.accessToken", "", plaintext, "/data/auth/params/accessToken: not a secret reference"},
		"reference upwards":      {"auth.params.accessToken", "vault:../other#x", forbidden, "/data/auth/params/accessToken: reference outside"},
		"reference to Adobe's":   {"auth.params.accessToken", "vault:adobe#clientSecret", forbidden, "/data/auth/params/accessToken: reference outside"},
		"domain of someone else": {"auth.params.domain", "https://evil.example", invalid, "/data/auth/params/domain: the host must be one of these or below one of them: azuredatabricks.net"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := with(t, goodData, map[string]any{c.path: c.value})
			wantInvalid(t, decode(nil, body), c.reason, c.want)
			wantInvalid(t, decode(nil, structured(t, body, nil)), c.reason, c.want)
		})
	}
}

func TestDataAccepts(t *testing.T) {
	t.Parallel()
	for path, values := range map[string][]any{
		"name":                    {"a", strings.Repeat("a", 255), strings.Repeat("é", 127), `q"u,o&te`, "日本"},
		"description":             {absent{}, "", strings.Repeat("a", 512), "flow-worker", "a\nb"},
		"ifExists":                {"create", "adopt", "reject"},
		"auth.params.catalog":     {"main"},
		"auth.params.accessToken": {"vault:a#b", "vault:a/b.c?version=3#d"},
		"auth.specName":           {"Some Other Spec"},
		"connectionSpec.version":  {"1.0.1"},
		"sandbox":                 {"0", strings.Repeat("a", 256)},
	} {
		for _, value := range values {
			d := decode(nil, with(t, goodData, map[string]any{path: value}))
			if d.Invalid != nil {
				t.Errorf("%s = %.40v: %s", path, value, d.Invalid)
			}
		}
	}
	d := decode(nil, with(t, goodData, map[string]any{"ifExists": "adopt", "auth.params.accessToken": "vault:a?version=3#b"}))
	if d.Request.Data.IfExists != provision.IfExistsAdopt || d.Request.Data.Auth.Params.AccessToken.Version != 3 {
		t.Errorf("got %+v", d.Request.Data)
	}
}

func TestAllViolationsAtOnce(t *testing.T) {
	t.Parallel()
	body := structured(t, with(t, goodData, map[string]any{
		"sandbox": absent{}, "name": " a", "zzz": secret, "auth.params.domain": "http://" + secret, "auth.params.accessToken": secret,
		"connectionSpec": map[string]any{"id": secret},
	}), map[string]any{"specversion": "2.0", "id": absent{}, "time": secret})
	d := decode(nil, body)
	wantInvalid(t, d, provision.ReasonPlaintextSecret)
	const token = "holds what looks like a token or a password; write it to Vault and send its reference as /data/auth/params/accessToken; "
	const want = `the request is not valid: ` +
		`/data/auth/params/accessToken: not a secret reference; write the secret to Vault and send vault:<path>#<field>; ` +
		`/data/auth/params/domain: ` + token + `/data/auth/params/domain: want https://<host> without path, query, port or user info; /data/connectionSpec/id: ` + token +
		`/data/connectionSpec/version: required; /data/name: has blanks at its ends; /data/sandbox: required; /data/zzz: unknown field; ` +
		`/id: required; /specversion: unsupported version; want 1.0`
	if d.Invalid.Message != want {
		t.Errorf("got  %s\nwant %s", d.Invalid.Message, want)
	}
}

func TestReasonPriority(t *testing.T) {
	t.Parallel()
	twice := strings.Replace(goodData, `"accessToken": "vault:databricks/acme#accessToken"`,
		`"accessToken": "vault:../x#y", "accessToken": "`+secret+`"`, 1)
	wantInvalid(t, decode(nil, twice), provision.ReasonPlaintextSecret, "reference outside", "not a secret reference", "given more than once")
	body := with(t, goodData, map[string]any{"auth.params.accessToken": "vault:../x#y", "sandbox": absent{}})
	wantInvalid(t, decode(nil, body), provision.ReasonSecretForbidden, "/data/sandbox: required")
}

func TestViolationsAreBounded(t *testing.T) {
	t.Parallel()
	changes := map[string]any{}
	for i := range 400 {
		changes[fmt.Sprintf("field%03d%s", i, strings.Repeat("é", 200))] = 1
	}
	d := decode(nil, with(t, goodData, changes))
	wantInvalid(t, d, provision.ReasonInvalidRequest, "/data/field000", "; and 350 more")
	if n := strings.Count(d.Invalid.Message, "unknown field"); n != maxViolations {
		t.Errorf("%d violations told, want %d", n, maxViolations)
	}
	if len(d.Invalid.Message) > 8<<10 {
		t.Errorf("message of %d bytes", len(d.Invalid.Message))
	}
	// Names below an unknown field may be secrets as well.
	wantInvalid(t, decode(nil, with(t, goodData, map[string]any{"tokens": map[string]any{secret: "vault:x#y"}})),
		provision.ReasonInvalidRequest, "/data/tokens: unknown field", "/data/tokens: begins with")
}

func TestCheckDomain(t *testing.T) {
	t.Parallel()
	const adb = "https://adb-1.7.azuredatabricks.net"
	allowed := []string{"azuredatabricks.net", " .Example.ORG ", "", "localhost", "10.0.0.1"}
	for good, want := range map[string]string{
		adb: adb, "https://azuredatabricks.net": "https://azuredatabricks.net", "https://x.example.org": "https://x.example.org", "https://localhost": "https://localhost",
		// What a browser's address line adds.
		"https://ADB-1.7.AzureDatabricks.NET": adb, "HTTPS://adb-1.7.azuredatabricks.net": adb, adb + "/": adb, adb + ":443": adb, adb + ":443/": adb,
		adb + "?o=0": adb, adb + "/?o=6280049833385130": adb, "Https://ADB-1.7.azuredatabricks.net:443/?o=1": adb,
	} {
		if got, wrong := checkDomain(good, allowed); got != want || wrong != "" {
			t.Errorf("%s: got %q, %s", good, got, wrong)
		}
	}
	// The meaning is plain, so the value to send is quoted.
	for _, near := range []string{"adb-1.7.azuredatabricks.net", "ADB-1.7.azuredatabricks.net/", "//adb-1.7.azuredatabricks.net", "http://adb-1.7.azuredatabricks.net", " " + adb, adb + "\n", adb + ".", adb + "./",
		adb + "//", adb + "/?o=1#notebook/2/command/3", adb + "/?o=1#secrets/createScope", adb + "#x", adb + "/browse/folders/1?o=2", adb + "/sql/1.0/warehouses/x", adb + "?x", adb + "/?o=", adb + "/?o=1&x=2", adb + "/?o=a",
		adb + ":8443", adb + ":80/", "https://u:p@adb-1.7.azuredatabricks.net", "https://me@adb-1.7.azuredatabricks.net/x", "jdbc:databricks://adb-1.7.azuredatabricks.net:443/default;transportMode=http;httpPath=sql/1", "<" + adb + ">", `"` + adb + `"`,
		"https:adb-1.7.azuredatabricks.net", adb + "/login.html"} {
		_, wrong := checkDomain(near, allowed)
		if want := `; send "` + adb + `"`; !strings.HasSuffix(wrong, want) && near[:6] != "https:a" {
			t.Errorf("%q: got %q, want %q", near, wrong, want)
		}
	}
	for bad, want := range map[string]string{
		"":         "want https://<host>",
		"https://": "not a host name",
		`https://evil.example\.azuredatabricks.net`:                          "without path",
		`https://evil.example\@adb-1.7.azuredatabricks.net`:                  "without path",
		"https://adb 1.azuredatabricks.net":                                  "not a host name",
		"https://adb%2e.azuredatabricks.net":                                 "not a host name",
		"https://.azuredatabricks.net":                                       "not a host name",
		"https://-a.azuredatabricks.net":                                     "not a host name",
		"https://a_b.azuredatabricks.net":                                    "not a host name",
		"https://ädb.azuredatabricks.net":                                    "not a host name",
		"https://adb.azuredatabric\u212as.net":                               "not a host name",
		"https://adb。azuredatabricks.net":                                    "not a host name",
		"https://" + strings.Repeat("a", 64) + ".azuredatabricks.net":        "not a host name",
		"https://" + strings.Repeat("a.", 120) + "azuredatabricks.net":       "not a host name",
		"https://xn--db-via.azuredatabricks.net":                             "internationalized",
		"https://a.XN--DB-via.azuredatabricks.net/":                          "internationalized",
		"https://10.0.0.1":                                                   "IP address",
		"https://2130706433":                                                 "IP address",
		"https://0x7f.0x1":                                                   "IP address",
		"https://[::1]":                                                      "without path",
		"https://evilazuredatabricks.net":                                    "the host must be one of these",
		"https://azuredatabricks.net.evil.example/":                          "the host must be one of these",
		"https://evil.example/.azuredatabricks.net":                          "without path",
		"https://evil.example?o=1.azuredatabricks.net":                       "without path",
		"https://evil.example#.azuredatabricks.net":                          "without path",
		"https://adb-1.azuredatabricks.net@evil.example":                     "without path",
		"https://adb-1.azuredatabricks.net:443@evil.example/":                "without path",
		"https://adb-1.7.azuredatabricks.net:443:443":                        "without path",
		"https://dapi0123456789abcdef0123456789abcdef.azuredatabricks.net/x": "without path",
	} {
		if _, got := checkDomain(bad, allowed); !strings.Contains(got, want) || strings.Contains(got, "; send") {
			t.Errorf("%q: got %q, want %q", bad, got, want)
		}
	}
	if _, wrong := checkDomain("https://a.azuredatabricks.net", nil); wrong == "" {
		t.Error("no allowed domain, and yet one is allowed")
	}
}

// leadsTo returns where a URL leads by net/url, which is what HTTP clients go by, and what is wrong
// with it for a place to send a token to.
func leadsTo(domain string) (host, wrong string) {
	u, err := url.Parse(domain)
	switch {
	case err != nil:
		return "", err.Error()
	case u.Scheme != "https" || u.Opaque != "":
		return "", "not https://"
	case u.User != nil || u.Port() != "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", "more than a host"
	case u.Host != u.Hostname() || u.String() != domain:
		return "", "reads otherwise than it is written"
	}
	if _, err := netip.ParseAddr(u.Host); err == nil {
		return "", "an address"
	}
	return strings.ToLower(u.Host), ""
}

// FuzzDomain holds what is let through against what net/url makes of it.
func FuzzDomain(f *testing.F) {
	for _, s := range []string{"https://adb-1.7.azuredatabricks.net", "https://evilazuredatabricks.net", "https://azuredatabricks.net.evil.example",
		"https://a@b.azuredatabricks.net", "https://evil.example\\.azuredatabricks.net", "https://evil.example#.azuredatabricks.net", "https:adb.azuredatabricks.net",
		"https://adb\uff0eazuredatabricks.net", "https://xn--a.azuredatabricks.net", "https://adb.azuredatabricks.net.", "https://10.0.0.1", "https://0x7f.1",
		"https://\tadb.azuredatabricks.net", "https://adb.azuredatabric\u212as.net", "https://[::1].azuredatabricks.net", "https://%65vil.azuredatabricks.net",
		"HTTPS://ADB-1.azuredatabricks.net:443/?o=12", "https://adb.azuredatabricks.net/?o=1#x", "https://evil.example?o=1/.azuredatabricks.net", "https://evil.example\\@adb.azuredatabricks.net",
		"adb.azuredatabricks.net@evil.example", "jdbc:databricks://adb.azuredatabricks.net:443/x;y"} {
		f.Add(s, "azuredatabricks.net")
	}
	f.Fuzz(func(t *testing.T, domain, allowed string) {
		written := domain
		domain, verdict := checkDomain(domain, []string{allowed})
		if _, send, quoted := strings.Cut(verdict, "; send "); quoted && domain == "" {
			domain, _ = strconv.Unquote(send) // what is quoted must be as good as what is taken
		} else if verdict != "" {
			return
		}
		if again, wrong := checkDomain(domain, []string{allowed}); again != domain || wrong != "" {
			t.Fatalf("%q becomes %q, and that %q: %s", written, domain, again, wrong)
		}
		host, wrong := leadsTo(domain)
		if wrong != "" {
			t.Fatalf("%q: %s", domain, wrong)
		}
		for i := range len(host) {
			if c := host[i]; c != '.' && c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				t.Fatalf("%q: byte %q", domain, c)
			}
		}
		under := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(allowed), "."))
		above, ok := strings.CutSuffix(host, under)
		if under == "" || !ok || above != "" && !strings.HasSuffix(above, ".") {
			t.Fatalf("%q leads to %q, which is not under %q", domain, host, allowed)
		}
		if strings.Contains("."+host, ".xn--") || len(host) > 253 || strings.Contains(host, "..") {
			t.Fatalf("%q is no host of ours", domain)
		}
	})
}

func TestDecodeRefusesControlCharacters(t *testing.T) {
	t.Parallel()
	for at, pointer := range map[string]string{"name": "/data/name", "description": "/data/description",
		"auth.specName": "/data/auth/specName", "auth.params.clusterId": "/data/auth/params/clusterId",
		"auth.params.database": "/data/auth/params/database", "auth.params.catalog": "/data/auth/params/catalog",
		"connectionSpec.version": "/data/connectionSpec/version"} {
		for _, c := range []string{"\x00", "\n", "\x7f", "\u0085"} {
			if c == "\n" && at == "description" {
				continue
			}
			d := decode(nil, with(t, goodData, map[string]any{at: "a" + c + "b"}))
			wantInvalid(t, d, provision.ReasonInvalidRequest, pointer+": holds a control character")
		}
		wantValid(t, decode(nil, with(t, goodData, map[string]any{at: "ä b"})))
	}
	ref := with(t, goodData, map[string]any{"auth.params.accessToken": "vault:a\x00b#c"})
	if decode(nil, ref).Invalid == nil {
		t.Error("a reference may hold a control character")
	}
}

func TestDecodeRefusesInvisibleNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"\u200b", "\u200b\u200d\ufeff", "\u00ad", "\u2060", "\u3164", "\u115f", "\uffa0", "\u2800", "\ufe0f", "\u202e", "\U000e0041"} {
		d := decode(nil, with(t, goodData, map[string]any{"name": name}))
		wantInvalid(t, d, provision.ReasonInvalidRequest, "/data/name: has no visible character")
	}
	for _, name := range []string{"a", "ä", "日本", "٣", "_", "👩\u200d🚀", "ن\u200c", "क्ष", "€"} {
		wantValid(t, decode(nil, with(t, goodData, map[string]any{"name": name})))
	}
}

func TestDecodeRefusesOtherMedia(t *testing.T) {
	t.Parallel()
	for _, media := range []string{"text/xml", "text/xml; charset=utf-8", "application/jsonx", "json", "application/octet-stream"} {
		for name, d := range map[string]provision.Delivery{
			"header":     decode(binary(map[string]string{"Content-Type": media}), goodData),
			"attribute":  decode(binary(map[string]string{"ce-datacontenttype": media}), goodData),
			"structured": decode(nil, structured(t, goodData, map[string]any{"datacontenttype": media})),
		} {
			if d.Invalid == nil {
				t.Errorf("%s %q: valid", name, media)
				continue
			}
			wantInvalid(t, d, provision.ReasonInvalidRequest, "/datacontenttype: the data must be JSON")
		}
	}
	twice := binary(nil)
	twice["Content-Type"] = []string{"text/xml", "application/json"}
	wantInvalid(t, decode(twice, goodData), provision.ReasonInvalidRequest, "/datacontenttype: header Content-Type: given more than once")
	for _, media := range []string{"-", "application/json; charset=utf-8", "application/vnd.x+json", "Application/JSON"} {
		wantValid(t, decode(binary(map[string]string{"Content-Type": media}), goodData))
	}
}

func TestViolationsAreOrderedAndToldOnce(t *testing.T) {
	t.Parallel()
	var v violations
	if v.failure() != nil {
		t.Error("nothing wrong, and yet a failure")
	}
	v.add("/b", "two")
	v.add("/a", "z")
	v.add("/b", "two")
	v.add("/a", "y")
	if got, want := v.failure().Message, "the request is not valid: /a: y; /a: z; /b: two"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if v[0].at != "/b" || !v.has("/a") || v.has("/c") {
		t.Errorf("telling them changed them: %v", v)
	}
}

func TestFailureReason(t *testing.T) {
	t.Parallel()
	const a, b, c = provision.ReasonInvalidRequest, provision.ReasonSecretForbidden, provision.ReasonPlaintextSecret
	for _, each := range []struct {
		in   []provision.Reason
		want provision.Reason
	}{{[]provision.Reason{a}, a}, {[]provision.Reason{a, b}, b}, {[]provision.Reason{b, a}, b}, {[]provision.Reason{c, b, a}, c}, {[]provision.Reason{a, b, c}, c}} {
		var v violations
		for _, r := range each.in {
			v.addAs(r, "/x", string(r))
		}
		f := v.failure()
		if f.Reason != each.want || f.Retryable {
			t.Errorf("%v: got %s, want %s", each.in, f.Reason, each.want)
		}
		for _, r := range each.in {
			if !strings.Contains(f.Message, string(r)) {
				t.Errorf("%v: %s is not told", each.in, r)
			}
		}
	}
}

func TestUnder(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"name": "/data/name", "a/b~c": "/data/a~1b~0c", "": "/data/", "a\x00\n\u2028": "/data/a\uFFFD\uFFFD\uFFFD", "日本": "/data/日本",
		strings.Repeat("a", 65): "/data/" + strings.Repeat("a", 64) + "…",
		strings.Repeat("é", 64): "/data/" + strings.Repeat("é", 32) + "…",
		strings.Repeat("日", 64): "/data/" + strings.Repeat("日", 21) + "…",
	} {
		got := under("/data", name)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
