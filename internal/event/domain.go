package event

import (
	"net/netip"
	"regexp"
	"strings"
)

// hostPattern admits host names of letters, digits and "-" only; no trailing dot, no other script.
var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

const maxHostLen = 253

// checkDomain says what is wrong with a domain parameter, or nothing. The worker sends the tenant's
// token there by way of the Flow Service, so the host must be one of allowed or below one of them.
func checkDomain(domain string, allowed []string) string {
	if wrong := checkHost(domain); wrong != "" {
		return wrong
	}
	host := strings.TrimPrefix(domain, "https://")
	return unless(allowedHost(strings.ToLower(host), allowed),
		"the host must be one of these or below one of them: "+strings.Join(allowed, ", "))
}

// checkHost says what is wrong with a domain parameter wherever it leads, or nothing.
func checkHost(domain string) string {
	host, ok := strings.CutPrefix(domain, "https://")
	switch {
	case !ok:
		return "want https://<host>"
	case strings.ContainsAny(host, "/?#@:\\"):
		return "want https://<host> without path, query, port or user info"
	case len(host) > maxHostLen || !hostPattern.MatchString(host):
		return "not a host name of letters, digits, \"-\" and \".\""
	case isAddress(host):
		return "an IP address; want a host name"
	case strings.Contains("."+strings.ToLower(host), ".xn--"):
		return "internationalized host names are refused"
	}
	return ""
}

// isAddress reports whether host is an IP address in any spelling that a resolver may take for one,
// such as 2130706433 or 0x7f.1: those are exactly the names whose last label is a number.
func isAddress(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	hex, isHex := strings.CutPrefix(last, "0x")
	return strings.Trim(last, "0123456789") == "" || isHex && strings.Trim(hex, "0123456789abcdef") == ""
}

func allowedHost(host string, allowed []string) bool {
	for _, each := range allowed {
		each = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(each), "."))
		if each != "" && (host == each || strings.HasSuffix(host, "."+each)) {
			return true
		}
	}
	return false
}
