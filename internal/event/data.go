package event

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// Where things are in a request's data.
const (
	atData        = "/data"
	atName        = atData + "/name"
	atDescription = atData + "/description"
	atSpecName    = atData + "/auth/specName"
	atParams      = atData + "/auth/params"
	atDomain      = atParams + "/domain"
	atToken       = atParams + "/accessToken"
	atCluster     = atParams + "/clusterId"
	atDatabase    = atParams + "/database"
	atCatalog     = atParams + "/catalog"
)

// byteLimits are the longest values in bytes, where the schema counts characters.
var byteLimits = map[string]int{ // :: pointer → bytes
	atName: 255, atDescription: 512, atSpecName: 256,
	atCluster: 256, atDatabase: 256, atCatalog: 256,
	atData + "/connectionSpec/version": 64,
}

// dataCheck holds one request's data against the schema and against the rules that no schema can
// say.
type dataCheck struct {
	allowed []string // domains
	secrets provision.Layout
	tenant  string
	bad     *violations
	params  *provision.Params // gets the domain and the token that were found to be right
}

// run adds all violations.
func (c dataCheck) run(data *node) {
	switch data.kind {
	case kindString:
		c.asText(data.text)
		return
	case kindArray:
		c.bad.add(atData, "%s", hintBatch)
	}
	c.walk(data, createSchema(), atData, true)
}

// walk visits all values that have a place in the schema; below an unknown field (s is nil) it keeps
// the field's own pointer, so that nothing from inside it is reported. The rules in code go first, for they speak
// more clearly; the schema adds only what they were silent about. It is asked of a value that counts, which is the
// last of its name.
func (c dataCheck) walk(n *node, s *schema, at string, counts bool) {
	if n.flaw != "" {
		c.bad.add(at, "%s", n.flaw)
	}
	if at == atToken {
		c.token(n)
	} else if n.kind == kindString {
		c.text(at, n.text)
		if s != nil && s.Properties == nil && tokenAt(at, n.text) {
			c.bad.addAs(provision.ReasonPlaintextSecret, at,
				"holds what looks like a token or a password; write it to Vault and send its reference as "+atToken)
		}
	}
	for _, each := range n.members {
		below, place := s.below(each.name), at
		if below != nil {
			place = below.at
		} else if s != nil {
			place = under(at, each.name)
		}
		c.walk(each.value, below, place, counts && n.member(each.name) == each.value)
	}
	for _, each := range n.items {
		c.walk(each, nil, at, false)
	}
	if s != nil && counts {
		c.schema(n, s)
	}
}

// schema adds what the schema has against a value.
func (c dataCheck) schema(n *node, s *schema) {
	if wrong := s.wrong(n); wrong != "" {
		if !c.bad.has(s.at) {
			c.bad.add(s.at, "%s%s", wrong, meantValue(n, s))
		}
		return
	}
	if n.kind != kindObject || s.Properties == nil {
		return
	}
	for _, name := range s.Required {
		if n.member(name) == nil {
			c.bad.add(under(s.at, name), "required")
		}
	}
	for _, each := range n.members {
		if s.Properties[each.name] == nil {
			c.bad.add(under(s.at, each.name), "unknown field")
		}
	}
}

// token checks the accessToken: what is no reference is taken for the secret itself.
func (c dataCheck) token(n *node) {
	if n.kind == kindNull {
		return
	}
	ref, err := provision.ParseSecretRef(n.text)
	if err == nil {
		err = c.secrets.Check(c.tenant, ref)
	}
	if err == nil && n.kind == kindString && !scrub.HoldsToken(n.text) {
		c.params.AccessToken = ref
		return
	}
	meant := ""
	if m := c.secrets.Meant(c.tenant, n.text); m != "" && !scrub.HoldsToken(m) {
		meant = "; send " + strconv.Quote(m)
	}
	switch {
	case meant != "" && errors.Is(err, provision.ErrPlaintextSecret) && !scrub.HoldsToken(n.text):
		c.bad.add(atToken, "%s%s", provision.ErrBadRef, meant)
	case n.kind != kindString, errors.Is(err, provision.ErrPlaintextSecret):
		c.bad.addAs(provision.ReasonPlaintextSecret, atToken, provision.ErrPlaintextSecret.Error()+meant)
	case errors.Is(err, provision.ErrForbiddenRef):
		c.bad.addAs(provision.ReasonSecretForbidden, atToken, err.Error()+meant)
	case err != nil:
		c.bad.add(atToken, "%s%s", err, meant)
	default:
		c.bad.addAs(provision.ReasonPlaintextSecret, atToken, "the reference itself holds what looks like a token; name where the secret is")
	}
}

// asText checks data that is a string: mostly the JSON of the data, encoded once too often, as text or in base64.
func (c dataCheck) asText(text string) {
	hint, secret := c.inside(text)
	if secret {
		c.bad.addAs(provision.ReasonPlaintextSecret, atData, hint+"; "+hintSecret)
		return
	}
	c.bad.add(atData, "%s", hint)
}

const hintSecret = "it holds what looks like a token or a password: write that to Vault and send its reference as " + atToken

// inside looks for JSON in a text, in any base64 or none, and reports whether there is a secret in it.
func (c dataCheck) inside(text string) (hint string, secret bool) {
	var inner violations
	hint = "got string, want object"
	secret = scrub.HoldsToken(text)
	for range 3 {
		n, err := parse([]byte(text))
		if raw, ok := anyBase64(text); err != nil && ok {
			n, err = parse(raw)
		}
		if err != nil {
			break
		}
		if n.kind == kindObject {
			hint = "JSON inside a string; send the object itself as data, without quotes around it"
			if n.member("specversion") != nil || n.likeEvent() {
				hint = "a whole event inside a string; send the event itself, and its data as an object"
				n = n.member("data")
			}
			if n != nil {
				dataCheck{allowed: c.allowed, secrets: c.secrets, tenant: c.tenant, bad: &inner, params: &provision.Params{}}.run(n)
			}
			break
		}
		text = n.text
		secret = secret || scrub.HoldsToken(text)
	}
	isSecret := func(v violation) bool { return v.reason == provision.ReasonPlaintextSecret }
	return hint, secret || slices.ContainsFunc(inner, isSecret)
}

// anyBase64 decodes base64 of either alphabet, with padding or without and broken into lines or not. It is for
// looking into what is refused.
func anyBase64(text string) ([]byte, bool) {
	text = strings.NewReplacer("-", "+", "_", "/", "=", "", " ", "", "\t", "").Replace(text)
	raw, err := base64.RawStdEncoding.DecodeString(text)
	return raw, err == nil
}

// hintBatch is what to do with a batch, of events or of their data.
const hintBatch = "got array, want object: a list, such as a batch of events; send each one as a message of its own, without the brackets around it"

// tokenAt reports whether a known field holds a token. What is wrong with user info in a domain says the
// domain's own rule.
func tokenAt(at, text string) bool {
	if at == atDomain {
		text = strings.TrimPrefix(text, "https://")
	}
	return scrub.HoldsToken(text)
}

// text checks any other string.
func (c dataCheck) text(at, text string) {
	if strings.HasPrefix(text, provision.RefScheme) {
		c.bad.add(at, "begins with %q; only %s may be a secret reference", provision.RefScheme, atToken)
	}
	if limit := byteLimits[at]; limit > 0 {
		if len(text) > limit {
			c.bad.add(at, "%d bytes long; at most %d are allowed", len(text), limit)
		}
		if holdsControl(at, text) {
			c.bad.add(at, "holds a control character")
		}
	}
	switch at {
	case atName:
		if strings.TrimSpace(text) != text {
			c.bad.add(at, "has blanks at its ends")
		}
		if strings.HasPrefix(text, "\ufeff") || strings.HasSuffix(text, "\ufeff") {
			c.bad.add(at, "has a byte order mark (U+FEFF) at its ends; take it out")
		}
		if text != "" && !strings.ContainsFunc(text, visible) {
			c.bad.add(at, "has no visible character")
		}
	case atDescription:
		if mark := strings.TrimSpace(provision.MarkPrefix); strings.Contains(text, mark) {
			c.bad.add(at, "must not contain %q, which begins the worker's own mark", mark)
		}
	case atDomain:
		url, wrong := checkDomain(text, c.allowed)
		if c.params.Domain = url; wrong != "" {
			c.bad.add(at, "%s", wrong)
		}
	}
}

// holdsControl reports whether there is a control character in the text. A description may have lines.
func holdsControl(at, text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) && (at != atDescription || r != '\n' && r != '\r' && r != '\t')
	})
}

// visible reports whether a character by itself puts ink on a page. Some letters and symbols don't.
func visible(r rune) bool {
	const brailleBlank = '\u2800'
	return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) && r != brailleBlank &&
		!unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
}

// meantValue quotes the value to send for a string that has but the wrong case, or something around it, such as a
// sandbox "Prod" or a UUID in braces.
func meantValue(n *node, s *schema) string {
	text := strings.TrimPrefix(strings.Trim(strings.ToLower(n.text), " \t\r\n\"'{}"), "urn:uuid:")
	if bareUUID.MatchString(text) {
		text = text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
	}
	fits := s.Pattern != nil && s.Pattern.MatchString(text) || s.lists(&node{kind: kindString, text: text})
	if n.kind != kindString || len(text) > maxNameLen || !fits || scrub.HoldsToken(text) {
		return ""
	}
	return "; send " + strconv.Quote(text)
}

var bareUUID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// dataOf reads data that has no violations, so that every name in it is known and has a string.
func dataOf(n *node, checked provision.Params) provision.Data {
	auth, spec := n.member("auth"), n.member("connectionSpec")
	params := auth.member("params")
	return provision.Data{
		Sandbox:     n.string("sandbox"),
		Name:        n.string("name"),
		Description: n.string("description"),
		Auth: provision.Auth{SpecName: auth.string("specName"), Params: provision.Params{
			Domain: checked.Domain, ClusterID: params.string("clusterId"), AccessToken: checked.AccessToken,
			Database: params.string("database"), Catalog: params.string("catalog"),
		}},
		ConnectionSpec: provision.ConnectionSpec{ID: spec.string("id"), Version: spec.string("version")},
		IfExists:       provision.IfExists(n.string("ifExists")),
	}
}

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
