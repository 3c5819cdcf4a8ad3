package event

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// hostPattern admits host names of letters, digits and "-" only; no trailing dot, no other script.
var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// anyScheme is what stands before the host of a URL, or should.
var anyScheme = regexp.MustCompile(`^(?i:https?:/*|[a-z][a-z0-9+.:-]*://+|//+)`)

const (
	maxHostLen = 253
	maxMeant   = 4 << 10 // bytes of a text that is looked through for the host that it means
)

// checkDomain returns a domain parameter as it is posted, or what is wrong with it. The worker sends the tenant's
// token there by way of the Flow Service, so the host must be one of allowed or below one of them.
func checkDomain(domain string, allowed []string) (url, wrong string) {
	url, wrong = checkHost(domain)
	if wrong == "" && !allowedHost(strings.TrimPrefix(url, "https://"), allowed) {
		return "", "the host must be one of these or below one of them: " + strings.Join(allowed, ", ")
	}
	if wrong != "" {
		if meant := meantDomain(domain, allowed); meant != "" {
			wrong += "; send " + strconv.Quote(meant)
		}
	}
	return url, wrong
}

// checkHost returns a domain parameter as it is posted, wherever it leads, or what is wrong with it.
func checkHost(domain string) (url, wrong string) {
	url, ok := provision.WorkspaceURL(domain)
	host := strings.TrimPrefix(url, "https://")
	switch {
	case !ok:
		wrong = "want https://<host> without path, query, port or user info"
	case len(host) > maxHostLen || !hostPattern.MatchString(host):
		wrong = "not a host name of letters, digits, \"-\" and \".\""
	case isAddress(host):
		wrong = "an IP address; want a host name"
	case strings.Contains("."+host, ".xn--"):
		wrong = "internationalized host names are refused"
	default:
		return url, ""
	}
	return "", wrong
}

// meantDomain returns the value to send where it is plain which host was meant and that is allowed, or nothing. It
// quotes a host name and nothing else of the text, which may hold a password.
func meantDomain(text string, allowed []string) string {
	if len(text) > maxMeant {
		return ""
	}
	text = strings.Trim(text, " \t\r\n\"'<>")
	text = anyScheme.ReplaceAllString(text, "")
	authority := text
	if end := strings.IndexAny(text, "/?#;"); end >= 0 {
		authority = text[:end]
	}
	if strings.Contains(text, "\\") {
		return "" // some read it as "/"
	}
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	host, port, _ := strings.Cut(host, ":")
	url, ok := provision.WorkspaceURL("https://" + strings.TrimSuffix(host, "."))
	if !ok || strings.Trim(port, "0123456789") != "" || scrub.HoldsToken(url) {
		return ""
	}
	if _, wrong := checkHost(url); wrong != "" || !allowedHost(strings.TrimPrefix(url, "https://"), allowed) {
		return ""
	}
	return url
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
