package vault

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func storedOf(fields map[string]any) *stored {
	return &stored{at: "secret/flow/tenants/acme/x", version: 7, fields: fields}
}

func TestUnusableFields(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		value any
		part  string
	}{
		"number":        {json.Number("424242"), "is a number"},
		"boolean":       {true, "is a boolean"},
		"null":          {nil, "is null"},
		"list":          {[]any{canary}, "is a list"},
		"object":        {map[string]any{"a": canary}, "is an object"},
		"empty":         {"", "is empty"},
		"line break":    {canary + "\n", "printf instead of echo"},
		"blank":         {" " + canary, "begins or ends with a blank"},
		"no-break":      {canary + "\u00a0", "begins or ends with a blank"},
		"control":       {canary + "\x00" + canary, "control character"},
		"inner newline": {canary + "\r\n" + canary, "control character"},
		"too large":     {canary + strings.Repeat("x", maxValue), "at most 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := secretIn(storedOf(map[string]any{"f": tc.value}), "f")
			checkProblem(t, err.public(), provision.SecretMissing, "secret/flow/tenants/acme/x", "field f", tc.part)
			if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "4242") || !cmp.Equal(got, provision.Secret{}) {
				t.Errorf("the value is told: %v", err)
			}
		})
	}
}

func TestUsableFields(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"x", "with a blank inside", "ünïcode", strings.Repeat("x", maxValue)} {
		got, err := secretIn(storedOf(map[string]any{"f": value}), "f")
		if err != nil || got.Value.Reveal() != value || got.Version != 7 || got.Domain != "" {
			t.Errorf("%.20q: got %+v, %v", value, got, err)
		}
	}
}

func TestDomainOfASecret(t *testing.T) {
	t.Parallel()
	got, err := secretIn(storedOf(map[string]any{"f": "x", "domain": "https://a"}), "f")
	if err != nil || got.Domain != "https://a" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []any{nil, "", " ", json.Number("1"), []any{"https://a"}} {
		_, err := secretIn(storedOf(map[string]any{"f": "x", "domain": bad}), "f")
		checkProblem(t, err.public(), provision.SecretMissing, "field domain")
	}
}

func TestCredentialsIn(t *testing.T) {
	t.Parallel()
	oauth := map[string]any{"orgId": "A@AdobeOrg", "clientId": "id", "clientSecret": "s-" + canary}
	token := map[string]any{"orgId": "A@AdobeOrg", "accessToken": "t-" + canary, "apiKey": "key"}
	for name, tc := range map[string]struct {
		fields map[string]any
		want   provision.Credentials
		parts  []string // of the error, if there is to be one
	}{
		"oauth":          {fields: oauth, want: provision.Credentials{OrgID: "A@AdobeOrg", ClientID: "id", ClientSecret: provision.NewSensitive("s-" + canary), Scopes: defaultScopes, Version: 7}},
		"token":          {fields: token, want: provision.Credentials{OrgID: "A@AdobeOrg", AccessToken: provision.NewSensitive("t-" + canary), APIKey: "key", Version: 7}},
		"scopes":         {fields: with(oauth, "scopes", "openid, AdobeID"), want: provision.Credentials{OrgID: "A@AdobeOrg", ClientID: "id", ClientSecret: provision.NewSensitive("s-" + canary), Scopes: "openid,AdobeID", Version: 7}},
		"none":           {fields: map[string]any{}, parts: []string{"orgId", "clientId", "clientSecret", "accessToken", "apiKey"}},
		"nil":            {fields: nil, parts: []string{"orgId"}},
		"only orgId":     {fields: map[string]any{"orgId": "A@AdobeOrg"}, parts: []string{"clientId", "accessToken"}},
		"both":           {fields: with(oauth, "apiKey", "key"), parts: []string{"not both"}},
		"no secret":      {fields: with(oauth, "clientSecret", nil), parts: []string{"clientSecret"}},
		"no api key":     {fields: map[string]any{"orgId": "A@AdobeOrg", "accessToken": canary}, parts: []string{"apiKey"}},
		"no orgId":       {fields: map[string]any{"clientId": "id", "clientSecret": canary}, parts: []string{"orgId"}},
		"bare orgId":     {fields: with(oauth, "orgId", canary), parts: []string{"orgId", "@AdobeOrg"}},
		"orgId number":   {fields: with(oauth, "orgId", json.Number("1")), parts: []string{"orgId", "a number"}},
		"orgId header":   {fields: with(oauth, "orgId", "a\r\nb@AdobeOrg"), parts: []string{"orgId", "control"}},
		"secret newline": {fields: with(oauth, "clientSecret", canary+"\n"), parts: []string{"clientSecret", "printf"}},
		"scopes list":    {fields: with(oauth, "scopes", []any{"openid"}), parts: []string{"scopes", "a list"}},
		"no scopes":      {fields: with(oauth, "scopes", ","), parts: []string{"scopes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := credentialsIn(storedOf(tc.fields))
			if tc.parts == nil {
				if err != nil || !cmp.Equal(got, tc.want) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			checkProblem(t, err.public(), provision.SecretMissing, append(tc.parts, "secret/flow/tenants/acme/x")...)
			if strings.Contains(err.Error(), canary) || !cmp.Equal(got, provision.Credentials{}) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func with(m map[string]any, key string, value any) map[string]any {
	out := map[string]any{key: value}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

func TestStoredDoesNotPrint(t *testing.T) {
	t.Parallel()
	s := storedOf(map[string]any{"f": canary})
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if text := fmt.Sprintf(format, s); strings.Contains(text, canary) {
			t.Errorf("%s prints %s", format, text)
		}
	}
}
