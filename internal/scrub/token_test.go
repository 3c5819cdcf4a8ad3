package scrub

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

// tokens has one of every shape, and what may stand around it.
var tokens = map[string]string{
	"Databricks":               "dapi0123456789abcdef0123456789abcdef",
	"Databricks, in Azure":     "dapi0123456789abcdef0123456789abcdef-3",
	"Databricks, capitals":     "DAPI0123456789ABCDEF0123456789ABCDEF",
	"Databricks, within":       "conn_dapi0123456789abcdef0123456789abcdef_prod",
	"Databricks OAuth":         "dose0123456789abcdef0123456789abcdef",
	"Databricks refresh":       "doau0123456789abcdef0123456789abcdef",
	"JSON Web Token":           "eyJhbGciOiJSUzI1NiIsIng1dSI6ImltcyJ9.eyJpZCI6IjE3In0.AbC-d_e",
	"its header":               "eyJhbGciOiJSUzI1NiIsIng1dSI6ImltcyJ9",
	"one without a known head": "x_eyJ0eXAiOiJKV1QifQ.eyJpZCI6IjE3In0.c2ln",
	"encrypted":                "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aXY.Y2lwaGVy.dGFn",
	"Adobe":                    "p8e-0Aa1Bb2Cc3Dd4Ee5Ff6Gg7Hh8Ii9Jj",
	"Adobe, with dashes":       "p8e-Q1w-E2rT3yU4i_O5pA6s-D7fG8hJ9kL",
	"Entra ID":                 "abC8Q~" + strings.Repeat("aB3_.", 6) + "Z9x",
	"Vault":                    "hvs.CAESIJ0123456789abcdef",
	"Vault, batch":             "a_hvb.AAAAAQKr0123456789abcdef",
	"NATS":                     "SU" + strings.Repeat("A2", 28),
	"PEM":                      "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAx7q9",
	"PEM, encrypted":           "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\nMHcCAQEEIx7q9Zb3Kd0w\n-----END EC PRIVATE KEY-----",
	"PEM, after talk of it":    "no -----BEGIN PRIVATE KEY----- here: -----BEGIN PRIVATE KEY-----\\nMC4CAQAwBQYDK2VwBCIEIx",
	"bearer":                   "Bearer 0123456789abcdef0123456789abcdef",
	"bearer, as a field":       `"Bearer": "0123456789abcdef0123456789abcdef"`,
	"bearer, colon":            "Bearer: Databricks2Experience4Platform7Q",
	"bearer in a URL":          "Bearer%200123456789abcdef0123456789abcdef",
	"basic":                    "basic dXNlcjpwYXNzd29yZA==",
	"basic, colon":             "Basic: dXNlcjpwYXNzd29yZA==",
	"basic in a URL":           "Basic%20dXNlcjpwYXNzd29yZA",
	"spaced JSON":              "eyAiYWxnIjogIlJTMjU2IiB9.eyAiaWQiOiAxNyB9.AbC-d_e",
	"indented JSON":            "ewogICJhbGciOiAiUlMyNTYiCn0.ewogICJpZCI6IDE3Cn0.AbC-d_e",
	"indented by tabs":         "x_ewoJImFsZyI6ICJSUzI1NiIKfQ",
	"with a carriage return":   "ew0KICJ0eXAiOiAiSldUIg0KfQ.ew0KICJpZCI6IDE3DQp9.AbC-d_e",
	"a short one":              "://u:p@",
	"a header alone":           "eyJhbGciOiJ4In0",
	"password in an address":   "see https://user:pass@host.example/path",
	"an @ in the user":         "https://ada@example.com:pass@host.example",
	"an @ in the password":     "https://ada:p@2026@host.example",
	"a number as a password":   "https://ada:123456@host.example",
	"a password for a number":  "https://ada:pass@20261122",
	"a token as the user":      "https://ghp_0Aa1Bb2Cc3Dd4Ee5Ff6Gg7Hh8Ii9Jj@git.example/x",
	"a token in other query":   "https://a.example:80?b=c@d https://user:pass@host.example",
}

// innocents are what requests hold, and look like tokens at a glance.
var innocents = []string{
	"", "0601-182128-dcbte59m", "0601-182128-dcbte59m0", "1234567890123456", "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "E9D7EC6B08734E57AD21B3A7C65E310B",
	"9f2c4b5e8d7a6c3b2a1f0e9d8c7b6a594837261509f8e7d6c5b4a39281706f5e", "01JD9Z7Q8W3E4R5T6Y7U8I9O0P", "cm3s1q2w30000abcd1234efgh", "seq-1763780400000000123-42",
	"https://adb-1234567890123456.7.azuredatabricks.net", "https://dapi.azuredatabricks.net", "https://hvs.example-of-a-long-hostname.azuredatabricks.net",
	"Databricks connection to Experience Platform", "A connection with bearer authentication", "Bearer authentication-2024 of databricks-oauth2-service",
	"basic characterization of overdose cases", "Basic Infrastructure", "overdose 0123456789abcdef0123456789", "dose of dapivirine, dapi12345678", "doaudio",
	"/portal/onboarding", "https://user@host.example/portal", "urn:uuid:e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "nats", "see ftp://a.example/b:c@d",
	"Access Token Authentication", "acme-db", "acme_db.main", "hive_metastore", "app8e-some-long-cluster-name", "p8e-production-cluster-name", "hvac.Some-Other-Thing-With-Caps",
	"keyJournalEntry.eyJ", "turkeyJuniorLeague2024", "eyJpZCI6IjEyMzQ1Njc4OTAiLCJuIjoxfQ", "eyJ", "SUMMARY", "SU" + strings.Repeat("A2", 20), "SQ~what", "a8Q~short",
	"BEGIN PRIVATE KEY", "-----BEGIN CERTIFICATE-----", "user:pass@host", "mailto:a@b.example", "vault:databricks/acme#accessToken", "flowworker.connection.create.v1",
	"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "dd=s:2;o:rum;t.dm:-4", "rojo=00f067aa0ba902b7", "2026-11-22T03:00:00Z", "prod", "日本 ä €", "\xff\xfe",
	"see http://grafana:3000?orgId=1&user=ada@example.com for details", "https://idp.example.com:8443?login_hint=ada@example.com",
	"jdbc:sqlserver://srv.database.windows.net:1433;database=x;user=ada@srv", "https://portal.example.com:8443?user=ada@example.com",
	"https://portal.example.com:8443#ada@example.com", "mongodb://a.example:27017,b.example:27017?user=ada@example.com", "https://a.example:443/portal:x@y",
	"urn://portal:onboarding@2026", "(urn://portal:onboarding@2026.)", "oci://registry.local:5000@v2", "oci://registry.local:5000@sha256:9f2c4b5e8d7a6c3b", "ssh://git@git.example:acme/portal@v1",
	"https://0af7651916cd43dd8448eb211c80319c@errors.example/1", "https://Databricks2Experience4Platform@host.example",
	"hvs.Databricks-Production-EU", "hvs.Databricks2Experience4Platform", "hvs.EU-Central-Cluster-0601-182128-dcbte59m", "hvb.production_EU_2026_Q4_cluster",
	"p8e-databricks-production-2026", "p8e-Databricks-Production-2026-Q4", "p8e-abcdefghijklmnopqrst7uvwxyzabcde",
	"Do not paste a -----BEGIN PRIVATE KEY----- block here", "-----BEGIN RSA PRIVATE KEY----- as in /etc/flow-worker/Certificates/Databricks2Experience -----END RSA PRIVATE KEY-----",
	"(Bearer Databricks2Experience4Platform)", "Basic: characterization", "ewok-village-of-Endor", "eyAgain-and-again", "ewogs.ewogs",
	"bearer", "Bearer ", "basic ", "Basic " + strings.Repeat("é", 20), "[redacted]",
}

func TestHoldsToken(t *testing.T) {
	t.Parallel()
	for name, token := range tokens {
		for _, text := range []string{token, "a " + token, token + " z", "bearer of bad news, https://u@h, basic characterization, " + token} {
			if !HoldsToken(text) {
				t.Errorf("%s: not seen in %q", name, text)
			}
			if (Scrubber{}).Clean(text) {
				t.Errorf("%s: Text leaves %q", name, text)
			}
		}
	}
}

func TestInnocentsHoldNoToken(t *testing.T) {
	t.Parallel()
	for _, text := range innocents {
		if HoldsToken(text) {
			t.Errorf("%q is taken for a token", text)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 { // ids as programs make them
		raw := make([]byte, 8+r.IntN(40))
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		for _, id := range []string{base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)} {
			if HoldsToken(id) {
				t.Errorf("%q is taken for a token", id)
			}
		}
	}
}

// FuzzHoldsToken: what surely holds a token is changed by Text, and then holds none.
func FuzzHoldsToken(f *testing.F) {
	for _, text := range tokens {
		f.Add(text)
	}
	for _, text := range innocents {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if told := (Scrubber{}).Text(text); HoldsToken(text) && told == text {
			t.Errorf("%q holds a token, but Text leaves it", text)
		} else if HoldsToken(told) && !strings.Contains(told, gone) {
			t.Errorf("%q became %q, which holds one", text, told)
		}
	})
}

func BenchmarkHoldsToken(b *testing.B) {
	for name, text := range map[string]string{"id": "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", "name": "Databricks connection to Experience Platform",
		"256 KiB": strings.Repeat("dapi0123 eyJ123 ://x:bearer hvs.basic 0Q~p8e-_-----BEGIN ", 4500)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if HoldsToken(text) {
					b.Fatal("a token")
				}
			}
		})
	}
}
