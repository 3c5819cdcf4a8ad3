package provision

import (
	"regexp"
	"strings"
)

// workspaceURL is a workspace's URL with what a browser's address line adds to it.
var workspaceURL = regexp.MustCompile(`^(?i:https)://([^/?#@:\\]*)(?::443)?/?(?:\?o=[0-9]{1,20})?$`)

// maxWorkspaceURL is the length of the longest one: a host has at most 253 bytes.
const maxWorkspaceURL = 300

// WorkspaceURL returns a request's domain as it is posted and compared: in small letters, and without one "/" at
// its end, ":443" and the query "?o=<digits>" that a browser's address line adds. It reports false where more than
// scheme and host would be left; whether the host is one is for others to say.
func WorkspaceURL(domain string) (url string, ok bool) {
	if len(domain) > maxWorkspaceURL {
		return "", false
	}
	m := workspaceURL.FindStringSubmatch(domain)
	if m == nil {
		return "", false
	}
	return "https://" + lowerASCII(m[1]), true
}

// sameHost compares the domain that the Flow Service stores with a request's: with or without scheme and blanks
// around it, and what WorkspaceURL takes off.
func sameHost(a, b string) bool {
	norm := func(s string) string {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "https://" + s
		}
		if url, ok := WorkspaceURL(s); ok {
			return url
		}
		return s
	}
	return norm(a) == norm(b)
}

// ownerHost returns the URL of the one host that a secret's own field "domain" names, or nothing: https://<host> or
// <host>, with blanks or quotes around it and whatever query and fragment a browser's address line shows. Another
// scheme, a list, a pattern, user info, another port, a path and a dot at the end are for its owner to take out.
func ownerHost(pinned string) string {
	m := pinnedHost.FindStringSubmatch(strings.Trim(pinned, " \t\r\n\"'<>\ufeff"))
	if m == nil || len(pinned) > maxPinned {
		return ""
	}
	return "https://" + lowerASCII(m[1])
}

// maxPinned is the length of the longest such field that is looked at: a query may be long.
const maxPinned = 2048

var pinnedHost = regexp.MustCompile(`^(?:(?i:https)://)?([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::443)?/?(?:\?[^\s\\]*)?(?:#[^\s\\]*)?$`)

// lowerASCII changes ASCII only: a "K" that is a Kelvin sign is no "k", and what is no UTF-8 stays as it is.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}
