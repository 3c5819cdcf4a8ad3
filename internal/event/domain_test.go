package event

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

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
