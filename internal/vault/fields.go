package vault

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// maxValue is how large a field may be, in bytes.
const maxValue = 64 << 10

// defaultScopes is what Adobe Experience Platform wants of an OAuth server-to-server credential.
const defaultScopes = "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext"

// secretIn returns the field and the owner's word on where it may go.
func secretIn(s *stored, field string) (provision.Secret, *failure) {
	value, err := s.text(field)
	if err != nil {
		return provision.Secret{}, err
	}
	out := provision.Secret{Value: provision.NewSensitive(value), Version: s.version}
	if s.has("domain") {
		// A domain that can't be read must not pass for none: the token would then go anywhere.
		if out.Domain, err = s.text("domain"); err != nil {
			return provision.Secret{}, err
		}
	}
	return out, nil
}

var orgID = regexp.MustCompile(`^[A-Za-z0-9]+@AdobeOrg$`)

// credentialsIn reads the secret with a tenant's Adobe credentials.
func credentialsIn(s *stored) (provision.Credentials, *failure) {
	oauth := s.has("clientId") || s.has("clientSecret")
	token := s.has("accessToken") || s.has("apiKey")
	if oauth == token {
		return provision.Credentials{}, missing("%s: want orgId and either clientId with clientSecret or accessToken with apiKey, one pair and not both", s.at)
	}
	out := provision.Credentials{Version: s.version}
	r := fieldReader{from: s}
	out.OrgID = r.text("orgId")
	if oauth {
		out.ClientID, out.ClientSecret = r.text("clientId"), provision.NewSensitive(r.text("clientSecret"))
		out.Scopes = r.scopes()
	} else {
		out.AccessToken, out.APIKey = provision.NewSensitive(r.text("accessToken")), r.text("apiKey")
	}
	if r.err == nil && !orgID.MatchString(out.OrgID) {
		r.err = missing("%s: field orgId must be the organization's id, which ends in @AdobeOrg", s.at)
	}
	if r.err != nil {
		return provision.Credentials{}, r.err
	}
	return out, nil
}

// fieldReader reads fields up to the first that fails.
type fieldReader struct {
	from *stored
	err  *failure
}

func (r *fieldReader) text(field string) string {
	if r.err != nil {
		return ""
	}
	var text string
	text, r.err = r.from.text(field)
	return text
}

// scopes returns the scopes as IMS wants them, comma-separated without blanks.
func (r *fieldReader) scopes() string {
	if !r.from.has("scopes") {
		return defaultScopes
	}
	scopes := strings.FieldsFunc(r.text("scopes"), func(c rune) bool { return c == ',' || c == ' ' })
	if len(scopes) == 0 && r.err == nil {
		r.err = missing("%s: field scopes names no scope; leave it out or separate them by commas", r.from.at)
	}
	return strings.Join(scopes, ",")
}

// has reports whether the secret has the field, whatever is in it.
func (s *stored) has(field string) bool {
	_, ok := s.fields[field]
	return ok
}

// text returns a field that must be a usable string. The error names the field and what is wrong, not
// the value.
func (s *stored) text(field string) (string, *failure) {
	if !s.has(field) {
		return "", missing("%s has no field %s", s.at, field)
	}
	text, ok := s.fields[field].(string)
	switch {
	case !ok:
		return "", missing("%s: field %s is %s; want a string, in quotes where it is written as JSON", s.at, field, kindOf(s.fields[field]))
	case text == "":
		return "", missing("%s: field %s is empty", s.at, field)
	case len(text) > maxValue:
		return "", missing("%s: field %s has %d bytes; at most %d are allowed", s.at, field, len(text), maxValue)
	case strings.TrimSpace(text) != text:
		return "", missing("%s: field %s begins or ends with a blank or a line break; write it again without (printf instead of echo)", s.at, field)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", missing("%s: field %s holds a control character; write it again without", s.at, field)
	}
	return text, nil
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
