package event

import (
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// A dead letter keeps the value of a known field or attribute only where it has that field's form:
// what was put in the wrong place may be a secret. Whether the worker would accept it is another
// question: a domain that is not allowed and a type of a later version stay.

var (
	versionForm = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,3}){0,2}$`)
	typeForm    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+$`)
	mediaForm   = regexp.MustCompile(`^\s*[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}\s*$`)
	charsetForm = regexp.MustCompile(`(?i)^\s*charset\s*=\s*("(utf-8|us-ascii)"|utf-8|us-ascii)\s*$`)
)

// formed reports whether the value may be one of the known attribute.
func formed(name, value string) bool {
	switch name {
	case "specversion":
		return versionForm.MatchString(value)
	case "type":
		return len(value) <= maxIDLen && typeForm.MatchString(value)
	case "time", "expirytime":
		return checkTime(value) == ""
	case "datacontenttype":
		return plainMedia(value) == value
	case "dataschema":
		u, err := url.Parse(value)
		return err == nil && u.IsAbs() && u.User == nil && u.RawQuery == "" && u.Opaque == ""
	case HeaderTraceParent:
		return validTraceParent(value)
	case HeaderTraceState:
		return validTraceState(value)
	case "id", "source":
		return validID(value)
	}
	return true
}

// plainMedia returns the Content-Type with no parameter but a charset, or nothing if it is none.
func plainMedia(value string) string {
	media, rest, found := strings.Cut(value, ";")
	switch {
	case !mediaForm.MatchString(media):
		return ""
	case !found, charsetForm.MatchString(rest):
		return value
	}
	return strings.TrimSpace(media)
}

// attributeStays reports whether a member of a structured event has a value that may stay.
func attributeStays(name string, n *node) bool {
	if !knownAttribute(name) || n.flaw != "" && n.flaw != flawTwice {
		return false
	}
	return n.kind == kindNull || n.kind == kindString && readAttribute(name, n.text).fault == "" && formed(name, n.text)
}

// harmless reports whether the value of a known field may stay. One that should be a string and has
// parts may hold anything, and one that holds a token does.
func harmless(n *node, at string) bool {
	if n.kind == kindObject || n.kind == kindArray {
		return false
	}
	if n.kind == kindString && tokenAt(at, n.text) {
		return false
	}
	switch at {
	case atToken:
		_, err := provision.ParseSecretRef(n.text)
		return n.kind == kindNull || n.kind == kindString && err == nil
	case atDomain:
		_, wrong := checkHost(n.text)
		return n.kind == kindNull || n.kind == kindString && wrong == ""
	case atCluster, atDatabase, atCatalog:
		return n.kind == kindNull || n.kind == kindString && saneParam(at, n.text)
	}
	return true
}

func saneParam(at, text string) bool {
	return len(text) <= byteLimits[at] && !holdsControl(at, text) && !strings.HasPrefix(text, provision.RefScheme) &&
		!strings.ContainsRune(text, utf8.RuneError)
}

// keptHeader returns what a dead letter keeps of the values of a header that has a form, which may be
// nothing.
func keptHeader(name string, values []string) []string {
	if len(values) > 1 && name != HeaderTraceState {
		return nil
	}
	var kept []string
	for _, v := range values {
		switch {
		case name == HeaderContentType:
			v = plainMedia(v)
		case !formed(name, v):
			v = ""
		}
		if v != "" && !scrub.HoldsToken(v) {
			kept = append(kept, v)
		}
	}
	return kept
}
