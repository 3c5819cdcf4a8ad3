package canary

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
)

// Tokens returns new secrets that anybody can tell for what they are, by the name of their issuer or form.
func Tokens() map[string]string {
	in64 := base64.RawURLEncoding.EncodeToString
	return map[string]string{
		"Databricks":          "dapi" + hexDigits(),
		"Databricks in Azure": "dapi" + hexDigits() + "-2",
		"Databricks OAuth":    "dose" + hexDigits(),
		"Adobe":               "p8e-" + Plain(),
		"JSON Web Token":      in64([]byte(`{"alg":"RS256","kid":"ims"}`)) + "." + in64([]byte(`{"id":"`+Plain()+`"}`)) + "." + Plain(),
		"Vault":               "hvs." + Plain(),
		"NATS":                "SU" + (rand.Text() + rand.Text() + rand.Text())[:56],
		"Entra ID":            rand.Text()[:3] + "8Q~" + (Plain() + Plain())[:34],
		"address":             "https://user:" + Plain() + "@host.example",
		"bearer":              "Bearer " + Plain(),
		"basic":               "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+Plain())),
		"PEM":                 "-----BEGIN PRIVATE KEY-----" + Plain() + "-----END PRIVATE KEY-----",
	}
}

func hexDigits() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
