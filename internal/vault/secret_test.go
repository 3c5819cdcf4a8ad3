package vault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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
		"only a blank":  {" \n", "is empty"},
		"control":       {canary + "\x00" + canary, "control character"},
		"inner newline": {canary + "\r\n" + canary, "control character"},
		"with scheme":   {"Bearer " + canary, "not usable"},
		"invisible end": {canary + "\u200b", "not usable"},
		"no ASCII":      {canary + "ü", "not usable"},
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
	for _, value := range []string{"x", "!~", strings.Repeat("x", maxValue)} {
		got, err := secretIn(storedOf(map[string]any{"f": value}), "f")
		if err != nil || got.Value.Reveal() != value || got.Version != 7 || got.Domain != "" {
			t.Errorf("%.20q: got %+v, %v", value, got, err)
		}
	}
	for _, around := range []string{"x\n", " x", "x\u00a0", "\ufeffx\r\n", "\tx\t"} {
		if got, err := secretIn(storedOf(map[string]any{"f": around}), "f"); err != nil || got.Value.Reveal() != "x" {
			t.Errorf("%q: got %+v, %v", around, got, err)
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

// The field binds the secret to its host however its name is spelled: one that is overlooked lets the token go to
// any host. The field that a reference names is that very one.
func TestSpellingsOfADomain(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Domain", "DOMAIN", "domain ", " domain", "\ufeffdomain", "do_main", "do-main", "\"domain\"", "domain:", "domain\u200b", "domain\n"} {
		fields := map[string]any{"f": "x", name: "https://a"}
		if got, err := secretIn(storedOf(fields), "f"); err != nil || got.Domain != "https://a" {
			t.Errorf("%q: got %+v, %v", name, got, err)
		}
		if got, err := secretIn(storedOf(with(fields, "domain", "https://a")), "f"); err != nil || got.Domain != "https://a" {
			t.Errorf("%q twice: got %+v, %v", name, got, err)
		}
		_, err := secretIn(storedOf(with(fields, "domain", "https://b")), "f")
		checkProblem(t, err.public(), provision.SecretMissing, fmt.Sprintf("%q", name), `"domain"`, "different hosts")
		if _, err := secretIn(storedOf(with(fields, name, nil)), "f"); err == nil {
			t.Errorf("%q: null passes for no domain", name)
		}
		_, err = secretIn(storedOf(map[string]any{"F": "x"}), "f")
		checkProblem(t, err.public(), provision.SecretMissing, "no field f")
	}
	if got, err := secretIn(storedOf(map[string]any{"f": "x", "domains": "https://a", "domain2": 1}), "f"); err != nil || got.Domain != "" {
		t.Errorf("other fields: got %+v, %v", got, err)
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
		"oauth":        {fields: oauth, want: provision.Credentials{OrgID: "A@AdobeOrg", ClientID: "id", ClientSecret: provision.NewSensitive("s-" + canary), Scopes: defaultScopes, Version: 7}},
		"token":        {fields: token, want: provision.Credentials{OrgID: "A@AdobeOrg", AccessToken: provision.NewSensitive("t-" + canary), APIKey: "key", Version: 7}},
		"scopes":       {fields: with(oauth, "scopes", "openid, AdobeID"), want: provision.Credentials{OrgID: "A@AdobeOrg", ClientID: "id", ClientSecret: provision.NewSensitive("s-" + canary), Scopes: "openid,AdobeID", Version: 7}},
		"none":         {fields: map[string]any{}, parts: []string{"orgId", "clientId", "clientSecret", "accessToken", "apiKey"}},
		"nil":          {fields: nil, parts: []string{"orgId"}},
		"only orgId":   {fields: map[string]any{"orgId": "A@AdobeOrg"}, parts: []string{"clientId", "accessToken"}},
		"both":         {fields: with(oauth, "apiKey", "key"), parts: []string{"not both"}},
		"no secret":    {fields: with(oauth, "clientSecret", nil), parts: []string{"clientSecret"}},
		"no api key":   {fields: map[string]any{"orgId": "A@AdobeOrg", "accessToken": canary}, parts: []string{"apiKey"}},
		"no orgId":     {fields: map[string]any{"clientId": "id", "clientSecret": canary}, parts: []string{"orgId"}},
		"bare orgId":   {fields: with(oauth, "orgId", canary), parts: []string{"orgId", "@AdobeOrg"}},
		"orgId number": {fields: with(oauth, "orgId", json.Number("1")), parts: []string{"orgId", "a number"}},
		"orgId header": {fields: with(oauth, "orgId", "a\r\nb@AdobeOrg"), parts: []string{"orgId", "control"}},
		"no scopes":    {fields: with(oauth, "scopes", ","), parts: []string{"scopes"}},
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

// The tenant's Adobe secret is taken as people have it: by our names, as Adobe's console exports it, as the
// tools that write it to Vault make of it.
func TestSpellingsOfCredentials(t *testing.T) {
	t.Parallel()
	const one, two = "p8-one-" + canary, "p8-two-" + canary
	scopes := "openid,AdobeID,session"
	export := map[string]any{
		"CLIENT_ID": "id", "CLIENT_SECRETS": []any{one, two}, "ORG_ID": "A@AdobeOrg", "SCOPES": []any{"openid", "AdobeID", "session"},
		"TECHNICAL_ACCOUNT_ID": "t@techacct.adobe.com", "TECHNICAL_ACCOUNT_EMAIL": "e@techacct.adobe.com",
	}
	inJSON := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	small := map[string]any{}
	for name, v := range export {
		small[strings.ToLower(name)] = v
	}
	project := map[string]any{"project": map[string]any{"id": "1", "org": map[string]any{"ims_org_id": "A@AdobeOrg"}, "workspace": map[string]any{
		"details": map[string]any{"credentials": []any{map[string]any{"id": "2", "jwt": map[string]any{"client_id": "old"}}, map[string]any{"id": "3", "oauth_server_to_server": map[string]any{
			"client_id": "id", "client_secrets": []any{one, two}, "technical_account_id": "t@techacct.adobe.com", "scopes": []any{"openid", "AdobeID", "session"}}}}}}}}
	for name, fields := range map[string]map[string]any{
		"the console's export":         export,
		"in small letters":             small,
		"a mixture":                    {"clientId": "id", "client_secrets": []any{one, two}, "ORG_ID": "A@AdobeOrg", "scope": scopes},
		"with dashes":                  {"client-id": "id", "client-secret": one + "," + two, "ims-org-id": "A@AdobeOrg", "scopes": scopes},
		"lists as text":                with(with(export, "CLIENT_SECRETS", inJSON([]string{one, two})), "SCOPES", "[\"openid\", \"AdobeID\",\n\"session\"]"),
		"blanks between scopes":        with(export, "SCOPES", "openid AdobeID  session"),
		"commas and blanks":            with(export, "SCOPES", "openid, AdobeID ,session"),
		"a list with joined scopes":    with(export, "SCOPES", []any{"openid,AdobeID", "session"}),
		"line breaks around":           with(with(export, "CLIENT_ID", " id\n"), "CLIENT_SECRETS", []any{one + "\r\n", "\ufeff" + two}),
		"nested under data":            {"data": export},
		"the file in one field":        {"credentials": inJSON(export)},
		"the file with a mark":         {"json": "\ufeff" + inJSON(export) + "\n"},
		"a second spelling, the same":  with(export, "clientId", "id"),
		"one of the secrets twice":     with(export, "clientSecret", two),
		"null for what is not needed":  with(with(export, "apiKey", nil), "ACCESS_TOKEN", nil),
		"empty for what is not needed": with(with(export, "API_KEY", ""), "ACCESS_TOKEN", " "),
		"the api key is the client id": with(export, "API_KEY", "id"),
		"null in a list":               with(export, "CLIENT_SECRETS", []any{one, nil, two}),
		"line breaks between scopes":   with(export, "SCOPES", "openid,\r\nAdobeID\n session\n"),
		"quotes around values":         with(with(with(export, "CLIENT_ID", `"id"`), "ORG_ID", "'A@AdobeOrg'"), "SCOPES", `"openid","AdobeID",session`),
		"quotes around lists":          with(export, "CLIENT_SECRETS", "'"+inJSON([]string{one, two})+"'"),
		"marks before the names":       {"\ufeffCLIENT_ID": "id", " CLIENT_SECRETS": []any{one, two}, "ORG_ID\n": "A@AdobeOrg", "SCOPES": scopes},
		"the client id as API_KEY":     {"API_KEY": "id", "CLIENT_SECRETS": []any{one, two}, "IMS_ORG": "A@AdobeOrg", "SCOPES": scopes, "ACCESS_TOKEN": ""},
		"the project's download":       project,
		"the project's file in one":    {"json": inJSON(project)},
		"Postman's environment": {"id": "1", "name": "OAuth", "values": []any{
			map[string]any{"key": "CLIENT_ID", "value": "id", "enabled": true}, map[string]any{"key": "CLIENT_SECRETS", "value": inJSON([]string{one, two})},
			map[string]any{"key": "IMS_ORG", "value": "A@AdobeOrg"}, map[string]any{"key": "SCOPES", "value": scopes}, map[string]any{"key": "API_KEY", "value": "off", "enabled": false}}},
		"an empty second secret": with(export, "CLIENT_SECRETS", []any{one, "", two}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := provision.Credentials{OrgID: "A@AdobeOrg", ClientID: "id", ClientSecret: provision.NewSensitive(one),
				OtherSecrets: []provision.Sensitive{provision.NewSensitive(two)}, Scopes: scopes, Version: 7}
			got, err := credentialsIn(storedOf(fields))
			if err != nil || !cmp.Equal(got, want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// A client secret in a list is one, whatever is in it; in a text, commas are between two.
func TestAClientSecretWithAComma(t *testing.T) {
	t.Parallel()
	fields := map[string]any{"CLIENT_ID": "id", "ORG_ID": "A@AdobeOrg", "CLIENT_SECRETS": []any{"p8,e" + canary}}
	for _, list := range []any{fields["CLIENT_SECRETS"], `["p8,e` + canary + `"]`} {
		got, err := credentialsIn(storedOf(with(fields, "CLIENT_SECRETS", list)))
		if err != nil || got.ClientSecret.Reveal() != "p8,e"+canary || len(got.OtherSecrets) != 0 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

// What can't be taken is told by the names in the secret, without any value.
func TestUnusableSpellingsOfCredentials(t *testing.T) {
	t.Parallel()
	export := map[string]any{"CLIENT_ID": "id", "CLIENT_SECRETS": []any{"s-" + canary}, "ORG_ID": "A@AdobeOrg"}
	many := make([]any, maxClientSecrets+1)
	for i := range many {
		many[i] = fmt.Sprint(canary, i)
	}
	for name, tc := range map[string]struct {
		fields map[string]any
		parts  []string
	}{
		"two client ids":       {with(export, "clientId", "other"), []string{"CLIENT_ID", "clientId", "differ"}},
		"two secrets apart":    {with(export, "clientSecret", "other-"+canary), []string{"CLIENT_SECRETS", "clientSecret", "differ"}},
		"two organizations":    {with(export, "orgId", "B@AdobeOrg"), []string{"ORG_ID", "orgId", "differ"}},
		"no secret in it":      {with(export, "CLIENT_SECRETS", []any{}), []string{"no field clientSecret"}},
		"a list of numbers":    {with(export, "CLIENT_SECRETS", []any{json.Number("1")}), []string{"CLIENT_SECRETS", "a number"}},
		"a list in a list":     {with(export, "SCOPES", []any{[]any{"openid"}}), []string{"SCOPES", "a list"}},
		"an object":            {with(export, "SCOPES", map[string]any{"openid": true}), []string{"SCOPES", "an object"}},
		"half a list":          {with(export, "CLIENT_SECRETS", `["`+canary), []string{"CLIENT_SECRETS", "begins like a list"}},
		"a list of client ids": {with(export, "CLIENT_ID", []any{"id"}), []string{"CLIENT_ID", "a list"}},
		"too many":             {with(export, "CLIENT_SECRETS", many), []string{"CLIENT_SECRETS", "9 client secrets", "at most 8"}},
		"another api key":      {with(export, "API_KEY", "other"), []string{"not both"}},
		"no organization":      {with(export, "ORG_ID", "A@techacct.adobe.com"), []string{"ORG_ID", "@AdobeOrg"}},
		"what is missing":      {map[string]any{"ORG_ID": "A@AdobeOrg", "CLIENT_ID": "id", "note": canary}, []string{"no field clientSecret", `it has the fields "CLIENT_ID", "ORG_ID", "note"`}},
		"a project without":    {map[string]any{"project": map[string]any{"org": map[string]any{"ims_org_id": "A@AdobeOrg"}}}, []string{"0 OAuth server-to-server credentials"}},
		"something else":       {map[string]any{"value": canary}, []string{"Adobe's console"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := credentialsIn(storedOf(tc.fields))
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

// A credential's file may be the JSON of one.
func TestQuotesInACredentialsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	for _, content := range []string{canary, `"` + canary + `"`, "'" + canary + "'\n", "\ufeff\"" + canary + "\"\r\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readTokenFile(path); got != canary || err != nil {
			t.Errorf("%q: got %q, %v", content, got, err)
		}
	}
}
