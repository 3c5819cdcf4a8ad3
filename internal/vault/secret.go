package vault

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// maxValue is how large a field may be, in bytes.
const maxValue = 64 << 10

// secretIn returns the field and the owner's word on where it may go.
func secretIn(s *stored, field string) (provision.Secret, *failure) {
	value, err := s.text(field)
	if err == nil {
		err = s.sendable(field, value)
	}
	if err != nil {
		return provision.Secret{}, err
	}
	out := provision.Secret{Value: provision.NewSensitive(value), Version: s.version}
	if out.Domain, err = s.domain(); err != nil {
		return provision.Secret{}, err
	}
	return out, nil
}

// domain returns the field that says where the secret may go, however its name is spelled, or nothing. One that
// can't be read, and spellings that differ, must not pass for none: the token would then go anywhere.
func (s *stored) domain() (string, *failure) {
	domain, before := "", ""
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		if foldName(name) != "domain" {
			continue
		}
		text, err := s.text(name)
		switch {
		case err != nil:
			return "", err
		case before != "" && text != domain:
			return "", missing("%s: the fields %q and %q say different hosts; keep one of them", s.at, before, name)
		}
		domain, before = text, name
	}
	return domain, nil
}

// foldName returns a field's name without what its spellings differ in: clientId, client_id, CLIENT_ID, and a
// byte order mark or blanks around it.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// text returns a field that must be a usable string.
func (s *stored) text(field string) (string, *failure) {
	value, ok := s.fields[field]
	if !ok {
		return "", missing("%s has no field %s", s.at, field)
	}
	return s.usable(field, value)
}

// usable returns a field's value as it is used, without what a file or an editor left around it. The error names
// the field and what is wrong, not the value.
func (s *stored) usable(field string, value any) (string, *failure) {
	text, ok := value.(string)
	text = trimmed(text)
	switch {
	case !ok:
		return "", missing("%s: field %s is %s; want a string, in quotes where it is written as JSON", s.at, field, kindOf(value))
	case text == "":
		return "", missing("%s: field %s is empty", s.at, field)
	case len(text) > maxValue:
		return "", missing("%s: field %s has %d bytes; at most %d are allowed", s.at, field, len(text), maxValue)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", missing("%s: field %s holds a control character; write it again without", s.at, field)
	}
	return text, nil
}

// sendable refuses a value that can't be a token, which goes into a header: it may have been written together
// with its scheme, or with characters that don't show.
func (s *stored) sendable(field, value string) *failure {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return missing("%s: field %s is not usable: it holds a blank, or a character that isn't ASCII or doesn't show; write the token alone", s.at, field)
	}
	return nil
}

// trimmed returns a text without a byte order mark and without blanks and line breaks around it.
func trimmed(text string) string { return strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")) }

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number, float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

// defaultScopes is what Adobe Experience Platform wants of an OAuth server-to-server credential.
const defaultScopes = "openid,session,AdobeID,read_organizations,additional_info.projectedProductContext"

// maxClientSecrets is how many client secrets are tried at most. Adobe lets a credential have two.
const maxClientSecrets = 8

// Our names of the fields of a tenant's Adobe secret.
const (
	fieldOrgID        = "orgId"
	fieldClientID     = "clientId"
	fieldClientSecret = "clientSecret"
	fieldScopes       = "scopes"
	fieldAccessToken  = "accessToken"
	fieldAPIKey       = "apiKey"
)

// adobeFields holds every name that a field may have, folded: ours, and those of what Adobe's console exports.
var adobeFields = map[string]string{ // :: folded name → ours
	"orgid": fieldOrgID, "imsorgid": fieldOrgID, "imsorg": fieldOrgID,
	"clientid": fieldClientID, "clientsecret": fieldClientSecret, "clientsecrets": fieldClientSecret,
	"scopes": fieldScopes, "scope": fieldScopes, "accesstoken": fieldAccessToken, "apikey": fieldAPIKey,
}

var orgID = regexp.MustCompile(`^[A-Za-z0-9]+@AdobeOrg$`)

// credentials returns the tenant's Adobe credentials in the secret, read once.
func (s *stored) credentials() (provision.Credentials, *failure) {
	s.once.Do(func() { s.adobe, s.notAdobe = credentialsIn(s) })
	return s.adobe, s.notAdobe
}

// credentialsIn reads the secret with a tenant's Adobe credentials.
func credentialsIn(s *stored) (provision.Credentials, *failure) {
	a, err := adobeIn(s)
	if err != nil {
		return provision.Credentials{}, err
	}
	org, id, token, key := a.one(fieldOrgID), a.one(fieldClientID), a.one(fieldAccessToken), a.one(fieldAPIKey)
	secrets := a.values[fieldClientSecret]
	if len(secrets) > 0 && token == "" && (id == "" || id == key) {
		id, key = cmp.Or(id, key), "" // at Adobe it is the same thing, and so the console calls it for other tools
	}
	oauth := id != "" || len(secrets) > 0
	if oauth == (token != "" || key != "") {
		return provision.Credentials{}, missing("%s: want what Adobe's console exports, or orgId and either clientId with clientSecret or accessToken with apiKey, one pair and not both; it has %s", s.at, a.found())
	}
	lacking := ""
	switch {
	case org == "":
		lacking = fieldOrgID
	case oauth && id == "":
		lacking = fieldClientID
	case oauth && len(secrets) == 0:
		lacking = fieldClientSecret
	case !oauth && token == "":
		lacking = fieldAccessToken
	case !oauth && key == "":
		lacking = fieldAPIKey
	}
	if lacking != "" {
		return provision.Credentials{}, missing("%s has no field %s, or an empty one; it has %s", s.at, lacking, a.found())
	}
	if !orgID.MatchString(org) {
		return provision.Credentials{}, missing("%s: field %s must be the organization's id, which ends in @AdobeOrg", s.at, a.spelled[fieldOrgID])
	}
	if !oauth {
		return provision.Credentials{Version: s.version, OrgID: org, AccessToken: provision.NewSensitive(token), APIKey: key}, nil
	}
	out := provision.Credentials{
		Version: s.version, OrgID: org, ClientID: id, ClientSecret: provision.NewSensitive(secrets[0]),
		Scopes: cmp.Or(strings.Join(a.values[fieldScopes], ","), defaultScopes),
	}
	for _, other := range secrets[1:] {
		out.OtherSecrets = append(out.OtherSecrets, provision.NewSensitive(other))
	}
	return out, nil
}

// adobe is a tenant's Adobe secret by our names. Fields that are null or empty are not in it.
type adobe struct {
	values  map[string][]string // :: our name → its values, one but for scopes and client secrets
	spelled map[string]string   // :: our name → the name in the secret
	names   []string            // of all fields in the secret
}

// What an error names of the fields in a secret.
const (
	maxName  = 64 // bytes of one
	maxNames = 12
)

// found returns what there is in words: the names of the fields and no value.
func (a adobe) found() string {
	var names []string
	for _, name := range a.names {
		if len(name) > maxName || scrub.HoldsToken(name) {
			name = provision.Redacted
		}
		names = append(names, strconv.Quote(name))
	}
	switch {
	case len(names) == 0:
		return "no fields"
	case len(names) > maxNames:
		return fmt.Sprintf("the fields %s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
	}
	return "the fields " + strings.Join(names, ", ")
}

// one returns the value of a field, or nothing.
func (a adobe) one(field string) string {
	if values := a.values[field]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// adobeIn reads the fields of an Adobe secret, however they are spelled. What it doesn't know it leaves.
func adobeIn(s *stored) (adobe, *failure) {
	a := adobe{values: map[string][]string{}, spelled: map[string]string{}}
	fields, bad := s.unpacked()
	if bad != nil {
		return a, bad
	}
	a.names = slices.Sorted(maps.Keys(fields))
	for _, name := range a.names {
		ours, known := adobeFields[foldName(name)]
		if !known {
			continue
		}
		values, err := s.list(ours, name, fields[name])
		switch {
		case err != nil:
			return a, err
		case len(values) == 0:
			continue
		}
		if before := a.values[ours]; len(before) > 0 && !within(before, values) {
			if !within(values, before) {
				return a, missing("%s: the fields %s and %s differ; keep one of them", s.at, a.spelled[ours], name)
			}
			continue
		}
		a.values[ours], a.spelled[ours] = values, name
	}
	return a, nil
}

// within reports whether all holds every one of some.
func within(some, all []string) bool {
	return !slices.ContainsFunc(some, func(v string) bool { return !slices.Contains(all, v) })
}

// unpacked returns the fields of a secret that was written as a whole into its only field, as an object or
// as the text of one, and those of the files that Adobe's console has for download; else the fields as they are.
func (s *stored) unpacked() (map[string]any, *failure) {
	fields := s.fields
	if len(fields) == 1 {
		for _, only := range fields {
			switch v := only.(type) {
			case map[string]any:
				if _, project := fields["project"]; !project {
					fields = v
				}
			case string:
				var inner map[string]any
				if v = trimmed(v); strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
					fields = inner
				}
			}
		}
	}
	if list, ok := fields["values"].([]any); ok {
		return postman(list), nil
	}
	if project, ok := fields["project"].(map[string]any); ok {
		return s.project(project)
	}
	return fields, nil
}

// postman returns the variables of a Postman environment.
func postman(list []any) map[string]any {
	fields := map[string]any{}
	for _, each := range list {
		variable, _ := each.(map[string]any)
		if key, ok := variable["key"].(string); ok && variable["enabled"] != false {
			fields[key] = variable["value"]
		}
	}
	return fields
}

// project returns the fields in the file of a whole project of Adobe's console.
func (s *stored) project(project map[string]any) (map[string]any, *failure) {
	below := func(m map[string]any, name string) map[string]any {
		inner, _ := m[name].(map[string]any)
		return inner
	}
	fields, found := map[string]any{}, 0
	list, _ := below(below(project, "workspace"), "details")["credentials"].([]any)
	for _, each := range list {
		credential, _ := each.(map[string]any)
		if oauth := below(credential, "oauth_server_to_server"); oauth != nil {
			fields = maps.Clone(oauth)
			found++
		}
	}
	if found != 1 {
		return nil, missing("%s: the project holds %d OAuth server-to-server credentials; want one, or its clientId, clientSecret and orgId as fields", s.at, found)
	}
	fields["ims_org_id"] = below(project, "org")["ims_org_id"]
	return fields, nil
}

// list returns the values of a field: several of scopes and client secrets, which may be a list or the text of
// one, else one. None stands for a field that is null or empty.
func (s *stored) list(ours, name string, value any) ([]string, *failure) {
	several, listed := ours == fieldScopes || ours == fieldClientSecret, false
	items := []any{value}
	if several {
		switch v := value.(type) {
		case []any:
			items, listed = v, true
		case string:
			if text := unquoted(v); strings.HasPrefix(text, "[") {
				items, listed = nil, true
				if json.Unmarshal([]byte(text), &items) != nil {
					return nil, missing("%s: field %s begins like a list in JSON and is none; write the list, or the values separated by commas", s.at, name)
				}
			}
		}
	}
	var values []string
	given := false
	for _, item := range items {
		parts := []any{item}
		if text, ok := item.(string); ok {
			text = unquoted(text)
			parts = []any{text}
			if ours == fieldScopes || several && !listed { // a client secret in a list is one, whatever is in it
				parts = separated(text)
			}
			given = given || text != ""
		}
		for _, part := range parts {
			if part == nil || part == "" {
				continue
			}
			text, err := s.usable(name, part)
			if err == nil {
				text = unquoted(text)
				err = s.sendable(name, text)
			}
			if err != nil {
				return nil, err
			}
			values = append(values, text)
		}
	}
	if several && given && len(values) == 0 {
		return nil, missing("%s: field %s holds no value; leave it out or separate the values by commas", s.at, name)
	}
	if ours == fieldClientSecret && len(values) > maxClientSecrets {
		return nil, missing("%s: field %s holds %d client secrets; at most %d are tried", s.at, name, len(values), maxClientSecrets)
	}
	return values, nil
}

// separated returns the parts of a text between commas, blanks and line breaks.
func separated(text string) (parts []any) {
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		parts = append(parts, unquoted(part))
	}
	return parts
}

// unquoted returns a text without what is left around it by files and editors, and without a pair of quotes.
func unquoted(text string) string {
	text = trimmed(text)
	for _, quote := range []string{`"`, "'"} {
		if inner, ok := strings.CutPrefix(text, quote); ok && strings.HasSuffix(inner, quote) {
			return trimmed(strings.TrimSuffix(inner, quote))
		}
	}
	return text
}
