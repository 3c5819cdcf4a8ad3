package provision

import (
	"errors"
	"strings"
	"testing"
)

// references are what acme sends, what its own one is that was plainly meant, and which error it gets.
var references = []struct {
	text, meant string
	err         error
}{
	{"vault:databricks/acme#accessToken", "", nil},
	{"vault:secret#data", "", nil}, // a secret of that name
	{"vault:acme/databricks#x", "", nil},
	{"vault:secrets/x#y", "", nil},
	{"vault:database/x#y", "", nil},
	{"vault:x/data/y#z", "", nil},
	{"vault:v1/x#y", "", nil},
	{"vault:metadata/x#y", "", nil},
	{"vault:kv/data/x#y", "", nil},
	{"vault:x/flow/tenants/acme/y#z", "", nil},
	// What the worker itself puts before it.
	{"vault:secret/data/flow/tenants/acme/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:secret/metadata/flow/tenants/acme/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:secret/flow/tenants/acme/databricks/acme?version=3#accessToken", "vault:databricks/acme?version=3#accessToken", ErrBadRef},
	{"vault:data/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:data/flow/tenants/acme/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:secret/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:secret/data/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:flow/tenants/acme/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:v1/secret/data/flow/tenants/acme/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:secret/data/data#x", "vault:data#x", ErrBadRef},
	{"vault:flow/tenants/acme/flow/tenants/acme/x#y", "vault:x#y", ErrBadRef},
	{"vault:secret/data/flow/tenants/acme/databricks/acme", "vault:databricks/acme#<field>", ErrBadRef},
	// Other spellings.
	{"vault:/databricks/acme#accessToken", "vault:databricks/acme#accessToken", ErrForbiddenRef},
	{"vault:databricks/acme/#x", "vault:databricks/acme#x", ErrForbiddenRef},
	{"vault:databricks//acme#x", "vault:databricks/acme#x", ErrForbiddenRef},
	{"vault://databricks/acme#x", "vault:databricks/acme#x", ErrForbiddenRef},
	{"vault://secret/data/flow/tenants/acme/databricks/acme#x", "vault:databricks/acme#x", ErrForbiddenRef},
	{"ref+vault://secret/flow/tenants/acme/databricks/acme#/accessToken", "vault:databricks/acme#accessToken", ErrPlaintextSecret},
	{"vault:https://vault.example:8200/v1/secret/data/flow/tenants/acme/databricks/acme#x", "vault:databricks/acme#x", ErrForbiddenRef},
	{"Vault:databricks/acme#x", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"VAULT:secret/databricks/acme#x", "vault:databricks/acme#x", ErrPlaintextSecret},
	{" vault:databricks/acme#x\n", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"vault:databricks/acme#accessToken?version=3", "vault:databricks/acme?version=3#accessToken", ErrBadRef},
	{"vault:secret/data/databricks/acme#accessToken#2", "vault:databricks/acme?version=2#accessToken", ErrBadRef},
	{"vault:databricks/acme#/accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault kv get -field=accessToken secret/flow/tenants/acme/databricks/acme", "vault:databricks/acme#accessToken", ErrPlaintextSecret},
	{"vault kv get -mount=secret -field accessToken -version=2 flow/tenants/acme/databricks/acme", "vault:databricks/acme?version=2#accessToken", ErrPlaintextSecret},
	{"vault read -field=accessToken secret/data/flow/tenants/acme/databricks/acme", "vault:databricks/acme#accessToken", ErrPlaintextSecret},
	{"vault kv get secret/flow/tenants/acme/databricks/acme", "vault:databricks/acme#<field>", ErrPlaintextSecret},
	{"vault:databricks/acme", "vault:databricks/acme#<field>", ErrBadRef},
	{"vault:databricks/acme:accessToken", "vault:databricks/acme#accessToken", ErrBadRef},
	{"vault:databricks/acme@1#accessToken", "vault:databricks/acme?version=1#accessToken", ErrBadRef},
	{"vault:databricks/acme#accessToken@2", "vault:databricks/acme?version=2#accessToken", ErrBadRef},
	{"\"vault:databricks/acme#x\"", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"'vault:databricks/acme#x',", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"\\\"vault:databricks/acme#x\\\"", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"\u201cvault:databricks/acme#x\u201d", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"\ufeffvault:databricks/acme#x", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"\u200bvault:databricks/acme#x\u200b", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"vault:databricks/acme#x\u200b", "vault:databricks/acme#x", ErrBadRef},
	{"${vault:databricks/acme#x}", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"{{ vault:databricks/acme#x }}", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"\"{{vault:secret/data/databricks/acme#x}}\"", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"<vault:databricks/acme#x>", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"$ vault kv get -field=x secret/databricks/acme", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"$(vault kv get -field=x secret/databricks/acme)", "vault:databricks/acme#x", ErrPlaintextSecret},
	{"ref+vault://secret/databricks/acme#/x", "vault:databricks/acme#x", ErrPlaintextSecret},
	// Another tenant's place is not quoted.
	{"\"vault:flow/tenants/globex/x#y\"", "", ErrPlaintextSecret},
	{"${vault:../globex/x#y}", "", ErrPlaintextSecret},
	{"vault:globex@1/../x#y", "", ErrForbiddenRef},
	{"vault:adobe@1#x", "", ErrForbiddenRef},
	{"vault:.\u200b./globex#x", "", ErrForbiddenRef},
	{"vault:secret/data/flow/tenants/globex/databricks/globex#accessToken", "", ErrForbiddenRef},
	{"vault:flow/tenants/globex/x#y", "", ErrForbiddenRef},
	{"vault:flow/tenants/acme2/x#y", "", ErrForbiddenRef},
	{"vault:flow/tenants/acme/flow/tenants/globex/x#y", "", ErrForbiddenRef},
	{"vault:data/data/flow/tenants/globex/x#y", "", ErrForbiddenRef},
	{"vault:/flow/tenants/globex/x#y", "", ErrForbiddenRef},
	{"vault:secret/data/flow/tenants/acme/../globex/x#y", "", ErrForbiddenRef},
	{"vault:secret/data/flow/tenants/acme/adobe#clientSecret", "", ErrForbiddenRef},
	{"vault:secret/data/flow/tenants/acme/#x", "", ErrForbiddenRef},
	{"vault kv get -field=x secret/flow/tenants/globex/x", "", ErrPlaintextSecret},
	// What may be a secret is not quoted.
	{"Vault:hunter2", "", ErrPlaintextSecret},
	{"vault:hunter2", "", ErrBadRef},
	{"hunter2", "", ErrPlaintextSecret},
	{"secret/data/flow/tenants/acme/x#y", "", ErrPlaintextSecret},
	{"ref+vault://secret/Hunter2", "", ErrPlaintextSecret},
	{"ref+vault://secret/Hunter2#x", "", ErrPlaintextSecret},
	{"ref+vault://Hunter2/x", "", ErrPlaintextSecret},
	{"vault:secret/Hunter2", "", ErrBadRef},
	{"vault:admin:hunter", "", ErrBadRef},
	{"vault:a/Hunter2:x", "", ErrBadRef},
	{"vault kv get secret/Hunter2", "", ErrPlaintextSecret},
	{"'hunter2'", "", ErrPlaintextSecret},
	{"vault:a?b#c", "", ErrBadRef},
	{"vault:a b#c", "", ErrForbiddenRef},
	{"vault:", "", ErrBadRef},
	{"vault", "", ErrPlaintextSecret},
	{"vault kv get", "", ErrPlaintextSecret},
	{"", "", ErrPlaintextSecret},
}

func judge(l Layout, tenant, text string) error {
	ref, err := ParseSecretRef(text)
	if err == nil {
		err = l.Check(tenant, ref)
	}
	return err
}

func TestLayout(t *testing.T) {
	t.Parallel()
	for _, c := range references {
		err := judge(Layout{}, "acme", c.text)
		if !errors.Is(err, c.err) {
			t.Errorf("%q: %v, want %v", c.text, err, c.err)
		}
		if got := (Layout{}).Meant("acme", c.text); got != c.meant {
			t.Errorf("%q: meant %q, want %q", c.text, got, c.meant)
		}
		if err != nil && strings.Contains(err.Error(), "globex") {
			t.Errorf("%q: another tenant is named: %v", c.text, err)
		}
	}
	other := Layout{Mount: "/kv/team-a/", Prefix: "/p/"}
	for text, meant := range map[string]string{"vault:kv/team-a/data/p/acme/x#y": "vault:x#y", "vault:p/acme/x#y": "vault:x#y", "vault:secret/data/flow/tenants/acme/x#y": "", "vault:p/globex/x#y": "", "vault:kv/team-a/x#y": "vault:x#y", "vault:p/q#y": ""} {
		if got := other.Meant("acme", text); got != meant {
			t.Errorf("%q: meant %q, want %q", text, got, meant)
		}
	}
	if got := (Layout{Mount: "data", Prefix: "data/metadata"}).Meant("acme", "vault:data/data/data/metadata/acme/x#y"); got != "vault:x#y" {
		t.Errorf("a mount named data: %q", got)
	}
}

// FuzzMeant: what is quoted is a good reference of the tenant's own, and never one of another tenant.
func FuzzMeant(f *testing.F) {
	for _, c := range references {
		f.Add(c.text, "secret", "flow/tenants")
	}
	f.Add("vault:data/data/metadata/acme/x#y", "data", "data/metadata")
	f.Fuzz(func(t *testing.T, text, mount, prefix string) {
		l := Layout{Mount: mount, Prefix: prefix}
		meant := l.Meant("acme", text)
		if meant == "" {
			return
		}
		ref, err := ParseSecretRef(strings.Replace(meant, "<field>", "field", 1))
		if err != nil || l.Check("acme", ref) != nil || meant == text {
			t.Fatalf("%q: quotes %q: %v", text, meant, err)
		}
		if judge(l, "acme", text) == nil {
			t.Fatalf("%q is good, and yet %q is quoted", text, meant)
		}
		for _, before := range []string{"", "data/", "metadata/", mount + "/", mount + "/data/", "v1/" + mount + "/data/"} {
			if below := before + strings.Trim(prefix, "/") + "/"; len(below) > 10 && strings.HasPrefix(ref.Path, below) {
				t.Fatalf("%q: quotes %q, which leads to a tenant", text, meant)
			}
		}
	})
}

func TestWorkspaceURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://a.net": "https://a.net", "HTTPS://A.Net:443/?o=12": "https://a.net", "https://a.net/": "https://a.net", "https://a.net?o=1": "https://a.net",
		"https://A\u212a": "https://a\u212a", "https://": "https://",
		"": "", "a.net": "", "http://a.net": "", "https://a.net//": "", "https://a.net:80": "", "https://a.net:443:443": "", "https://a@b": "", "https://a.net/x": "", "https://a.net?o=": "",
		"https://a.net?o=1#x": "", "https://a.net?o=1&p=2": "", "https://a.net?O=1": "", "https://a.net/\n": "", "https://a\\b": "", "https://a.net?o=" + strings.Repeat("1", 21): "", "https://a.net/?o=\u0661": "",
	} {
		got, ok := WorkspaceURL(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", in, got, ok, want)
		}
	}
}

func TestSecretsDomainIsComparedAsItsOwnerMeansIt(t *testing.T) {
	t.Parallel()
	const asked = "https://adb-1.example.net"
	for pinned, want := range map[string]bool{
		asked + "/?o=1#job/7": true, asked + "#x": true, asked + "/?o=1&x=2": true, `"` + asked + `"`: true, asked + "?o=1@evil.example": true,
		"evil.example?x=" + asked: false, "evil.example#" + asked: false, "evil.example#@adb-1.example.net": false, asked + "\\@evil.example": false, asked + ",https://evil.example": false, "https://adb-1.example.net.evil.example#x": false, "adb-1.example.\u0131et": false,
		asked: true, "adb-1.example.net": true, "ADB-1.example.net/": true, asked + "/?o=6280049833385130": true, "adb-1.example.net:443": true, " " + asked + "/ ": true, "adb-1.example.net?o=1": true,
		"http://adb-1.example.net": false, asked + "/x": false, asked + ":8443": false, asked + ".": false, "adb-1.example.net@evil.example": false, "evil.example/?o=1": false, "https://adb-2.example.net": false,
		"": false, "*": false, "https://https://adb-1.example.net": false,
	} {
		if got := ownerHost(pinned); (got == asked) != want {
			t.Errorf("%q: want %v", pinned, want)
		}
	}
}

// FuzzWorkspaceURL: what is taken off is taken off once and for all, and nothing else changes.
func FuzzWorkspaceURL(f *testing.F) {
	for _, s := range []string{"https://a.net", "HTTPS://A.net:443/?o=1", "https://a.net:443:443", "https://a.net//", "https://a?o=1?o=2", "https://a@b/", "https://a.net/?o=1/", "HTTPS://0" + strings.Repeat("\xf1", 120)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		url, ok := WorkspaceURL(s)
		if !ok {
			return
		}
		host := strings.TrimPrefix(url, "https://")
		if again, ok := WorkspaceURL(url); again != url || !ok || strings.TrimSpace(url) == url && !sameHost(s, url) {
			t.Fatalf("%q becomes %q, and that %q", s, url, again)
		}
		if strings.ContainsAny(host, "/?#@:\\") || !strings.HasPrefix(strings.ToLower(s[len("https://"):]), strings.ToLower(host)) {
			t.Fatalf("%q becomes %q", s, url)
		}
	})
}
