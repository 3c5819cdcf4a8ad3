package vault

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

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

// foldName returns a field's name without what its spellings differ in: clientId, client_id and CLIENT_ID.
func foldName(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
}

var orgID = regexp.MustCompile(`^[A-Za-z0-9]+@AdobeOrg$`)

// credentialsIn reads the secret with a tenant's Adobe credentials.
func credentialsIn(s *stored) (provision.Credentials, *failure) {
	a, err := adobeIn(s)
	if err != nil {
		return provision.Credentials{}, err
	}
	oauth := a.has(fieldClientID) || a.has(fieldClientSecret)
	token := a.has(fieldAccessToken) || a.has(fieldAPIKey)
	if a.has(fieldClientID) && a.has(fieldClientSecret) && !a.has(fieldAccessToken) && a.one(fieldAPIKey) == a.one(fieldClientID) {
		token = false // it is the same thing at Adobe
	}
	if oauth == token {
		return provision.Credentials{}, missing("%s: want what Adobe's console exports, or orgId and either clientId with clientSecret or accessToken with apiKey, one pair and not both", s.at)
	}
	need := []string{fieldOrgID, fieldAccessToken, fieldAPIKey}
	if oauth {
		need = []string{fieldOrgID, fieldClientID, fieldClientSecret}
	}
	for _, field := range need {
		if !a.has(field) {
			return provision.Credentials{}, missing("%s has no field %s, or an empty one", s.at, field)
		}
	}
	if !orgID.MatchString(a.one(fieldOrgID)) {
		return provision.Credentials{}, missing("%s: field %s must be the organization's id, which ends in @AdobeOrg", s.at, a.spelled[fieldOrgID])
	}
	out := provision.Credentials{Version: s.version, OrgID: a.one(fieldOrgID)}
	if !oauth {
		out.AccessToken, out.APIKey = provision.NewSensitive(a.one(fieldAccessToken)), a.one(fieldAPIKey)
		return out, nil
	}
	out.ClientID, out.Scopes = a.one(fieldClientID), defaultScopes
	for i, secret := range a.values[fieldClientSecret] {
		if i == 0 {
			out.ClientSecret = provision.NewSensitive(secret)
		} else {
			out.OtherSecrets = append(out.OtherSecrets, provision.NewSensitive(secret))
		}
	}
	if a.has(fieldScopes) {
		out.Scopes = strings.Join(a.values[fieldScopes], ",")
	}
	return out, nil
}

// adobe is a tenant's Adobe secret by our names. Fields that are null or empty are not in it.
type adobe struct {
	values  map[string][]string // :: our name → its values, one but for scopes and client secrets
	spelled map[string]string   // :: our name → the name in the secret
}

func (a adobe) has(field string) bool { return len(a.values[field]) > 0 }

func (a adobe) one(field string) string {
	if !a.has(field) {
		return ""
	}
	return a.values[field][0]
}

// adobeIn reads the fields of an Adobe secret, however they are spelled. What it doesn't know it leaves.
func adobeIn(s *stored) (adobe, *failure) {
	a := adobe{values: map[string][]string{}, spelled: map[string]string{}}
	fields := unpacked(s.fields)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
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
// as the text of one; else the fields as they are.
func unpacked(fields map[string]any) map[string]any {
	if len(fields) != 1 {
		return fields
	}
	for _, only := range fields {
		switch v := only.(type) {
		case map[string]any:
			return v
		case string:
			var inner map[string]any
			if v = trimmed(v); strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
				return inner
			}
		}
	}
	return fields
}

// list returns the values of a field: several of scopes and client secrets, which may be a list or the text of
// one, else one. None stands for a field that is null or empty.
func (s *stored) list(ours, name string, value any) ([]string, *failure) {
	several := ours == fieldScopes || ours == fieldClientSecret
	items := []any{value}
	switch v := value.(type) {
	case nil:
		return nil, nil
	case []any:
		if several {
			items = v
		}
	case string:
		var inner []any
		if text := trimmed(v); several && strings.HasPrefix(text, "[") {
			if json.Unmarshal([]byte(text), &inner) != nil {
				return nil, missing("%s: field %s begins like a list in JSON and is none; write the list, or the values separated by commas", s.at, name)
			}
			items = inner
		}
	}
	var values []string
	for _, item := range items {
		if text, ok := item.(string); ok && trimmed(text) == "" {
			continue
		}
		text, err := s.usable(name, item)
		if err != nil {
			return nil, err
		}
		if several {
			values = append(values, strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })...)
		} else {
			values = append(values, text)
		}
	}
	for _, value := range values {
		if err := s.sendable(name, value); err != nil {
			return nil, err
		}
	}
	if ours == fieldClientSecret && len(values) > maxClientSecrets {
		return nil, missing("%s: field %s holds %d client secrets; at most %d are tried", s.at, name, len(values), maxClientSecrets)
	}
	if several && len(values) == 0 && len(items) > 0 && items[0] != "" {
		return nil, missing("%s: field %s holds no value; leave it out or separate the values by commas", s.at, name)
	}
	return values, nil
}
