package provision

import (
	"cmp"
	"html"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// What a service stores of a text may differ from what was sent: in case, Unicode form, blanks and invisible
// characters, it may be escaped for HTML, and it may be cut. So texts are compared folded, and the mark is
// looked for in a folded description. All 32 digits make a connection ours; fewer only say that it may be.

// fold returns s without what a service may change: for comparison only.
func fold(s string) string {
	s = html.UnescapeString(html.UnescapeString(s)) // an escaped text may be escaped once more
	s = cases.Fold().String(norm.NFKC.String(s))
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Variation_Selector) {
			return -1
		}
		return r
	}, s)
	return norm.NFC.String(s)
}

// sameText reports whether a service may have stored one of the texts as the other.
func sameText(a, b string) bool { return a == b || fold(a) == fold(b) }

// minCutName is the length, in bytes, from which on a stored name may be another one that was cut.
const minCutName = 8

// cutText reports whether stored is the beginning of sent, as far as a service leaves it recognizable.
func cutText(stored, sent string) bool {
	stored = strings.TrimRight(fold(stored), ".") // an ellipsis, too
	return len(stored) >= minCutName && strings.HasPrefix(fold(sent), stored)
}

// nameForms returns the forms in which a service is likely to have stored a name, the name itself first.
func nameForms(name string) []string {
	composed := norm.NFC.String(name)
	plain := strings.ToLower(strings.Join(strings.Fields(composed), " "))
	forms := []string{name}
	for _, f := range []string{composed, plain} {
		if !slices.Contains(forms, f) {
			forms = append(forms, f)
		}
	}
	return forms
}

const markDigits = 32

var (
	foldedPrefix = fold(MarkPrefix)
	foldedMark   = regexp.MustCompile(regexp.QuoteMeta(foldedPrefix) + `([0-9a-f]{0,32})`)
)

// markIn returns the digits of the mark that a description holds: of the last whole one, else of the last one
// that was cut, which may have left none. It returns false where there is no trace of a mark.
func markIn(description string) (digits string, marked bool) {
	if len(description) < len(foldedPrefix) {
		return "", false
	}
	for _, m := range foldedMark.FindAllStringSubmatch(fold(description), -1) {
		if len(m[1]) == markDigits || len(digits) < markDigits {
			digits, marked = m[1], true
		}
	}
	return digits, marked
}

// markHex returns the digits of the key's mark.
func (k Key) markHex() string { return strings.Trim(strings.TrimPrefix(k.Mark(), MarkPrefix), "]") }

// carriesMark reports whether a description holds a whole mark, whoever's it is.
func carriesMark(description string) bool {
	digits, _ := markIn(description)
	return len(digits) == markDigits
}

// sighting is what a look-up saw: all of it, and of that, each oldest first, what is ours and what may be.
type sighting struct {
	all    []Found
	ours   []Found // with the request's mark
	alike  []Found // without any whole mark, but else as ours would be, and new enough to be it
	named  []Found // with the request's name, where that was asked for
	asked  bool    // the tenant's credentials could be read
	served bool    // a list was answered
}

// sought is what a look-up looks for. The mark alone makes a connection ours. What carries no whole mark, but may
// be ours, is neither ours nor absent.
type sought struct {
	mark    string // its digits
	name    string
	spec    ConnectionSpec
	params  Params
	since   time.Time // before which none of the request's POSTs was sent, by the Flow Service's clock
	nothing bool      // the request was never sent, so nothing can be its
}

func (s *situation) sought() sought {
	// A message whose record was lost had no POST before it entered the stream.
	first := s.rec.FirstPostAt
	if first.IsZero() {
		first = s.rec.RequestedAt
	}
	return sought{mark: s.d.Request.Key.markHex(), name: s.rec.Name, spec: s.rec.ConnectionSpec, params: s.d.Request.Data.Auth.Params,
		since: first.Add(-upstreamSkew), nothing: s.rec.FirstPostAt.IsZero() && !s.rec.LookFirst}
}

// upstreamSkew is how far behind ours the Flow Service's clock is assumed to be at most. Too long
// only means that a person is asked once more.
const upstreamSkew = 5 * time.Minute

// standing says what a connection is to the request.
type standing int

const (
	others standing = iota
	perhaps
	ours
)

func (w sought) sort(s *sighting) {
	s.ours, s.alike = nil, nil
	for _, f := range s.all {
		switch w.standing(f) {
		case ours:
			s.ours = append(s.ours, f)
		case perhaps:
			s.alike = append(s.alike, f)
		case others:
		}
	}
	oldestFirst(s.ours)
	oldestFirst(s.alike)
}

// distinctDigits is how many digits of a mark that was cut tell it from others', whatever the name: a part of
// the mark without them may be any request's.
const distinctDigits = 4

func (w sought) standing(f Found) standing {
	digits, marked := markIn(f.Description)
	switch {
	case deleted(f):
		return others
	case digits == w.mark:
		return ours
	case marked && !strings.HasPrefix(w.mark, digits) || len(digits) == markDigits || !w.newEnough(f):
		return others
	case len(digits) >= distinctDigits || w.couldBeOurs(f):
		return perhaps
	}
	return others
}

// mayBeOurs reports whether a connection as a list shows it is ours, may be, or must be read by its id to
// tell: without its description nothing tells that it is another's.
func (w sought) mayBeOurs(f Found) bool {
	return w.standing(f) != others || f.Undescribed && w.newEnough(f) && !deleted(f)
}

// couldBeOurs reports whether f may be what our POST made, if somebody changed its description or
// upstream cut it. What upstream doesn't tell counts as equal.
func (w sought) couldBeOurs(f Found) bool {
	return (f.Name == "" || sameText(f.Name, w.name) || cutText(f.Name, w.name)) &&
		(f.SpecID == "" || strings.EqualFold(f.SpecID, w.spec.ID)) &&
		(f.Domain == "" || sameHost(f.Domain, w.params.Domain)) &&
		(f.ClusterID == "" || sameText(f.ClusterID, w.params.ClusterID))
}

func (w sought) newEnough(f Found) bool { return f.CreatedAt.IsZero() || f.CreatedAt.After(w.since) }

func oldestFirst(fs []Found) {
	slices.SortStableFunc(fs, func(a, b Found) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
}

// States of a connection that matter here. A draft's has no documented name; it is not "enabled".
const (
	stateEnabled      = "enabled"
	stateInitializing = "initializing"
	stateDeleted      = "deleted"
)

const maxState = 40 // bytes of a state that are told

// deleted reports whether the service says that f is gone, though it shows it.
func deleted(f Found) bool { return strings.EqualFold(f.State, stateDeleted) }

// sameConnection reports whether f is what a request with this data would make.
func sameConnection(f Found, d Data) bool {
	p := d.Auth.Params
	return sameText(f.Name, d.Name) && strings.EqualFold(f.SpecID, d.ConnectionSpec.ID) && f.SpecVersion == d.ConnectionSpec.Version &&
		sameHost(f.Domain, p.Domain) && strings.EqualFold(f.ClusterID, p.ClusterID) &&
		strings.EqualFold(f.Database, p.Database) && strings.EqualFold(f.Catalog, p.Catalog)
}
