package confinement

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

// aim is a request's domain, what the secret's own field "domain" says, and what becomes of it. The
// hosts that are allowed are azuredatabricks.net and example.org, and what is below them.
type aim struct {
	name   string
	domain string // of the request
	pinned any    // the secret's field, nil for none
	want   string
}

const (
	adb    = "adb-1.azuredatabricks.net"
	viaADB = "https://" + adb
)

func aims() []aim {
	return append(append(hosts(), spellings()...), pins()...)
}

// hosts aim at hosts that are not the tenant's to name.
func hosts() []aim {
	return []aim{
		{"below", viaADB, nil, created},
		{"itself", "https://azuredatabricks.net", nil, created},
		{"below another", "https://x.example.org", nil, created},
		{"upper case", "https://ADB-1.AzureDatabricks.NET", nil, created},
		{"deep below", "https://a.b.c.d.azuredatabricks.net", nil, created},
		{"longest label", "https://" + strings.Repeat("a", 63) + ".azuredatabricks.net", nil, created},
		{"elsewhere", "https://evil.example", nil, malformed},
		{"suffix without a dot", "https://evilazuredatabricks.net", nil, malformed},
		{"suffix with a hyphen", "https://evil-azuredatabricks.net", nil, malformed},
		{"as a prefix", "https://azuredatabricks.net.evil.example", nil, malformed},
		{"as a label", "https://azuredatabricks.evil.net", nil, malformed},
		{"above", "https://net", nil, malformed},
		{"other top level", "https://azuredatabricks.nets", nil, malformed},
		{"only the hosts' list", "https://azuredatabricks.net,example.org", nil, malformed},
		{"loopback", "https://localhost", nil, malformed},
		{"IPv4", "https://10.0.0.1", nil, malformed},
		{"IPv4 of metadata", "https://169.254.169.254", nil, malformed},
		{"IPv4 as a number", "https://2130706433", nil, malformed},
		{"IPv4 in octal", "https://0177.0.0.01", nil, malformed},
		{"IPv4 in hexadecimal", "https://0x7f.0x0.0x0.0x1", nil, malformed},
		{"IPv4 of two parts", "https://127.1", nil, malformed},
		{"IPv4 below", "https://10.0.0.1.azuredatabricks.net", nil, created}, // a name like any other
		{"IPv6", "https://[::1]", nil, malformed},
		{"IPv6 without brackets", "https://::1", nil, malformed},
		{"IPv6 zone", "https://[fe80::1%25azuredatabricks.net]", nil, malformed},
		{"IPv4 in IPv6", "https://[::ffff:127.0.0.1]", nil, malformed},
		{"wildcard", "https://*.azuredatabricks.net", nil, malformed},
	}
}

// spellings aim at a good host, or look as if they did.
func spellings() []aim {
	return []aim{
		{"empty", "", nil, malformed},
		{"no host", "https://", nil, malformed},
		{"dot", "https://.", nil, malformed},
		{"no scheme", adb, nil, malformed},
		{"scheme-relative", "//" + adb, nil, malformed},
		{"http", "http://" + adb, nil, malformed},
		{"scheme in upper case", "HTTPS://" + adb, nil, created},
		{"other scheme", "ftp://" + adb, nil, malformed},
		{"scheme twice", "https://https://" + adb, nil, malformed},
		{"no slashes", "https:" + adb, nil, malformed},
		{"one slash", "https:/" + adb, nil, malformed},
		{"three slashes", "https:///" + adb, nil, malformed},
		{"backslashes", `https:\\` + adb, nil, malformed},
		{"slash and backslash", `https:/\` + adb, nil, malformed},
		{"user", "https://user@" + adb, nil, malformed},
		{"user and password", "https://user:password@" + adb, nil, malformed},
		{"host as user", viaADB + "@evil.example", nil, malformed},
		{"host as user and password", "https://" + adb + ":443@evil.example", nil, malformed},
		{"empty user", "https://@" + adb, nil, malformed},
		{"port", viaADB + ":443", nil, created},
		{"other port", viaADB + ":8443", nil, malformed},
		{"port twice", viaADB + ":443:443", nil, malformed},
		{"port and user", "https://" + adb + ":443@evil.example/?o=1", nil, malformed},
		{"two slashes", viaADB + "//", nil, malformed},
		{"slash and dot", viaADB + "./", nil, malformed},
		{"all of an address line", "HTTPS://ADB-1.azuredatabricks.net:443/?o=6280049833385130", nil, created},
		{"query of the workspace", viaADB + "?o=1", nil, created},
		{"query of the workspace, empty", viaADB + "/?o=", nil, malformed},
		{"query of the workspace, long", viaADB + "/?o=" + strings.Repeat("1", 50_000), nil, malformed},
		{"query of the workspace, a word", viaADB + "/?o=x", nil, malformed},
		{"query of the workspace and more", viaADB + "/?o=1&x=2", nil, malformed},
		{"query of the workspace twice", viaADB + "/?o=1?o=1", nil, malformed},
		{"query of the workspace, Arabic digits", viaADB + "/?o=\u0661", nil, malformed},
		{"host in the query of the workspace", "https://evil.example/?o=1.azuredatabricks.net", nil, malformed},
		{"host elsewhere with the query", "https://evil.example/?o=1", nil, malformed},
		{"fragment of a page", viaADB + "/?o=1#notebook/2", nil, malformed},
		{"driver's URL", "jdbc:databricks://" + adb + ":443/default", nil, malformed},
		{"empty port", viaADB + ":", nil, malformed},
		{"slash", viaADB + "/", nil, created},
		{"path", viaADB + "/api", nil, malformed},
		{"host in the path", "https://evil.example/.azuredatabricks.net", nil, malformed},
		{"query", viaADB + "?x=1", nil, malformed},
		{"host in the query", "https://evil.example?.azuredatabricks.net", nil, malformed},
		{"empty query", viaADB + "?", nil, malformed},
		{"fragment", viaADB + "#x", nil, malformed},
		{"host in the fragment", "https://evil.example#.azuredatabricks.net", nil, malformed},
		{"backslash", `https://evil.example\.azuredatabricks.net`, nil, malformed},
		{"backslash and at", `https://evil.example\@` + adb, nil, malformed},
		{"semicolon", "https://evil.example;.azuredatabricks.net", nil, malformed},
		{"comma", "https://evil.example,adb.azuredatabricks.net", nil, malformed},
		{"percent", "https://evil.example%2f.azuredatabricks.net", nil, malformed},
		{"encoded dot", "https://adb-1%2eazuredatabricks.net", nil, malformed},
		{"encoded NUL", "https://evil.example%00.azuredatabricks.net", nil, malformed},
		{"NUL", "https://evil.example\x00.azuredatabricks.net", nil, malformed},
		{"trailing dot", viaADB + ".", nil, malformed},
		{"two trailing dots", viaADB + "..", nil, malformed},
		{"leading dot", "https://.azuredatabricks.net", nil, malformed},
		{"empty label", "https://adb-1..azuredatabricks.net", nil, malformed},
		{"label too long", "https://" + strings.Repeat("a", 64) + ".azuredatabricks.net", nil, malformed},
		{"name too long", "https://" + strings.Repeat("a.", 120) + "azuredatabricks.net", nil, malformed},
		{"huge", "https://" + strings.Repeat("a.", 50_000) + "azuredatabricks.net", nil, malformed},
		{"label begins with a hyphen", "https://-adb.azuredatabricks.net", nil, malformed},
		{"label ends with a hyphen", "https://adb-.azuredatabricks.net", nil, malformed},
		{"underscore", "https://adb_1.azuredatabricks.net", nil, malformed},
		{"blank before", " " + viaADB, nil, malformed},
		{"blank after", viaADB + " ", nil, malformed},
		{"blank within", "https://evil.example .azuredatabricks.net", nil, malformed},
		{"tab", "https://evil.example\t.azuredatabricks.net", nil, malformed},
		{"tab in the scheme", "ht\ttps://" + adb, nil, malformed},
		{"line break", viaADB + "\n", nil, malformed},
		{"line break within", "https://evil.example\r\n.azuredatabricks.net", nil, malformed},
		{"host header", viaADB + "\r\nHost: evil.example", nil, malformed},
		{"IDN", "https://ädb.azuredatabricks.net", nil, malformed},
		{"punycode", "https://xn--db-via.azuredatabricks.net", nil, malformed},
		{"punycode in upper case", "https://a.XN--DB-via.azuredatabricks.net", nil, malformed},
		{"Cyrillic a", "https://\u0430zuredatabricks.net", nil, malformed},
		{"Kelvin sign", "https://adb-1.azuredatabric\u212as.net", nil, malformed},
		{"long s", "https://adb-1.azuredatabrick\u017f.net", nil, malformed},
		{"dotless i", "https://adb-1.azuredatabr\u0131cks.net", nil, malformed},
		{"fullwidth letters", "https://adb-1.\uff41zuredatabricks.net", nil, malformed},
		{"fullwidth dot", "https://adb-1\uff0eazuredatabricks.net", nil, malformed},
		{"ideographic dot", "https://adb-1\u3002azuredatabricks.net", nil, malformed},
		{"halfwidth dot", "https://evil.example\uff61azuredatabricks.net", nil, malformed},
		{"fullwidth slash", "https://evil.example\uff0f.azuredatabricks.net", nil, malformed},
		{"account of", "https://evil.example\u2100.azuredatabricks.net", nil, malformed}, // a/c once it is normalized
		{"zero width", "https://adb-1\u200b.azuredatabricks.net", nil, malformed},
		{"soft hyphen", "https://adb\u00ad-1.azuredatabricks.net", nil, malformed},
		{"right to left", "https://\u202eten.skcirbatad.azuredatabricks.net", nil, malformed},
		{"reference", "vault:databricks/acme#accessToken", nil, malformed},
	}
}

// pins are secrets that say themselves where they may go.
func pins() []aim {
	return []aim{
		{"pinned", viaADB, viaADB, created},
		{"pinned without scheme", viaADB, adb, created},
		{"pinned with a slash", viaADB, viaADB + "/", created},
		{"pinned in upper case", viaADB, "HTTPS://ADB-1.AZUREDATABRICKS.NET", created},
		{"pinned, asked in upper case", "https://ADB-1.azuredatabricks.net", viaADB, created},
		{"pinned to another", viaADB, "https://adb-2.azuredatabricks.net", forbidden},
		{"pinned to what is above", viaADB, "https://azuredatabricks.net", forbidden},
		{"pinned to what is below", "https://azuredatabricks.net", viaADB, forbidden},
		{"pinned to what ends so", "https://x" + adb, viaADB, forbidden},
		{"pinned to what begins so", viaADB, viaADB + ".evil.example", forbidden},
		{"pinned to another allowed one", viaADB, "https://x.example.org", forbidden},
		{"pinned to what isn't allowed", "https://evil.example", "https://evil.example", malformed},
		{"pinned by http", viaADB, "http://" + adb, forbidden},
		{"pinned with a port", viaADB, viaADB + ":443", created},
		{"pinned with another port", viaADB, viaADB + ":8443", forbidden},
		{"pinned as in an address line", viaADB, viaADB + "/?o=1", created},
		{"pinned and asked as in an address line", "HTTPS://ADB-1.azuredatabricks.net/?o=2", viaADB + ":443/?o=1", created},
		{"pinned as in an address line with a fragment", viaADB, viaADB + "/?o=1#job/7", created},
		{"pinned to another with a fragment", viaADB, "https://adb-2.azuredatabricks.net/?o=1#@adb-1.azuredatabricks.net", forbidden},
		{"pinned to another as in an address line", viaADB + "/?o=1", "https://adb-2.azuredatabricks.net/?o=1", forbidden},
		{"pinned with a user and the query", viaADB, viaADB + "@evil.example/?o=1", forbidden},
		{"pinned with a path", viaADB, viaADB + "/x", forbidden},
		{"pinned with a user", viaADB, "https://user@" + adb, forbidden},
		{"pinned with a trailing dot", viaADB, viaADB + ".", forbidden},
		{"pinned with two schemes", viaADB, "https://https://" + adb, forbidden},
		{"pinned with two slashes", viaADB, viaADB + "//", forbidden},
		{"pinned to all", viaADB, "*", forbidden},
		{"pinned to all below", viaADB, "https://*.azuredatabricks.net", forbidden},
		{"pinned to a list", viaADB, viaADB + ",https://adb-2.azuredatabricks.net", forbidden},
		{"pinned with a Kelvin sign", viaADB, "https://adb-1.azuredatabric\u212as.net", forbidden},
		{"pinned with a dotted capital i", viaADB, "https://adb-1.azuredatabr\u0130cks.net", forbidden},
		{"pinned with a fullwidth dot", viaADB, "https://adb-1\uff0eazuredatabricks.net", forbidden},
		{"pinned to nothing", viaADB, "", notFound},
		{"pinned to a blank", viaADB, " ", notFound},
		{"pinned with a line break", viaADB, viaADB + "\n", created},
		{"pinned to null", viaADB, json.RawMessage("null"), notFound},
		{"pinned to a number", viaADB, 1, notFound},
		{"pinned to a list of JSON", viaADB, []string{viaADB}, notFound},
		{"pinned to an object", viaADB, map[string]string{"host": adb}, notFound},
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{})
	w.decoder = &event.Decoder{AllowedDomains: []string{"azuredatabricks.net", "example.org"}}
	for i, a := range aims() {
		at := "aims/" + strconv.Itoa(i)
		fields := map[string]any{"accessToken": "dapi-of-acme"}
		if a.pinned != nil {
			fields["domain"] = a.pinned
		}
		w.vault.Put("flow/tenants/acme/"+at, fields)
		out := w.handle(t, nil, request(quoted("vault:"+at+"#accessToken"), quoted(a.domain)))
		if got := reason(out); got != a.want {
			t.Errorf("%s, %.200q: %s, want %s: %+v", a.name, a.domain, got, a.want, out.Result.Error)
		}
		w.checkAim(t, a)
	}
	w.checkPosted(t)
	t.Logf("%d domains", len(aims()))
}

// checkAim expects that the token went to the aim's host and nowhere else, by what the Flow Service
// received since it was looked at last.
func (w *world) checkAim(t *testing.T, a aim) {
	t.Helper()
	posts := 0
	for _, r := range w.flow.Requests() {
		if r.Operation != flowtest.OpCreate {
			continue
		}
		posts++
		var body struct {
			Auth struct{ Params struct{ Domain string } }
		}
		if err := json.Unmarshal(r.Body, &body); err != nil {
			t.Fatal(err)
		}
		sent := body.Auth.Params.Domain
		asked, err := url.Parse(a.domain)
		if err != nil {
			t.Fatal(err)
		}
		host := strings.ToLower(asked.Hostname())
		u, err := url.Parse(sent)
		if err != nil || strings.ToLower(u.Hostname()) != host || sent != "https://"+u.Host || u.Port() != "" || u.User != nil {
			t.Errorf("%s: the Flow Service is told %q, which net/url reads as %+v, %v", a.name, sent, u, err)
		}
		if dialled := dials(t, sent); dialled != host+":443" {
			t.Errorf("%s: a client of %q dials %s", a.name, sent, dialled)
		}
	}
	if want := map[bool]int{true: 1}[a.want == created]; posts != want {
		t.Errorf("%s: %d POSTs, want %d", a.name, posts, want)
	}
	w.checkPosted(t)
	w.flow.Reset()
}

// dials returns where Go's client would connect to for a URL.
func dials(t *testing.T, address string) (to string) {
	t.Helper()
	stop := errors.New("seen")
	transport := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		to = strings.ToLower(addr)
		return nil, stop
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := transport.RoundTrip(r); !errors.Is(err, stop) {
		_ = resp.Body.Close()
		t.Errorf("%s: %v", address, err)
	}
	return to
}

// TestAllowedDomains tries lists of allowed hosts as a decoder gets them.
func TestAllowedDomains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engine{})
	for _, c := range []struct {
		allowed []string
		domain  string
		want    string
	}{
		{nil, viaADB, malformed},
		{[]string{}, viaADB, malformed},
		{[]string{""}, viaADB, malformed},
		{[]string{"."}, viaADB, malformed},
		{[]string{" "}, viaADB, malformed},
		{[]string{"*"}, viaADB, malformed},
		{[]string{"*.azuredatabricks.net"}, viaADB, malformed},
		{[]string{"https://azuredatabricks.net"}, viaADB, malformed},
		{[]string{"azuredatabricks.net:443"}, viaADB, malformed},
		{[]string{"AzureDatabricks.NET"}, viaADB, created},
		{[]string{".azuredatabricks.net"}, viaADB, created},
		{[]string{".azuredatabricks.net"}, "https://evilazuredatabricks.net", malformed},
		{[]string{"other.example", "azuredatabricks.net"}, viaADB, created},
		{[]string{adb}, viaADB, created},
		{[]string{adb}, "https://x." + adb, created},
		{[]string{adb}, "https://adb-11.azuredatabricks.net", malformed},
		{[]string{adb}, "https://adb-2.azuredatabricks.net", malformed},
		{[]string{"10.0.0.1"}, "https://10.0.0.1", malformed},
		{[]string{"127.0.0.1", "1"}, "https://127.1", malformed},
		{[]string{"localhost"}, "https://localhost", created},
		{[]string{"xn--db-via.example"}, "https://xn--db-via.example", malformed},
	} {
		w.decoder = &event.Decoder{AllowedDomains: c.allowed}
		out := w.handle(t, nil, request(goodRef, quoted(c.domain)))
		if got := reason(out); got != c.want {
			t.Errorf("%q with %q allowed: %s, want %s", c.domain, c.allowed, got, c.want)
		}
		w.checkAim(t, aim{c.domain, c.domain, nil, c.want})
	}
}
