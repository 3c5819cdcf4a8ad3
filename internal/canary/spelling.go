package canary

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"mime/quotedprintable"
	"net/url"
	"slices"
	"strings"
)

// Spelling is a way to write a secret.
type Spelling struct {
	Write func(secret string) string
	Block int // bytes of what Write returns that are a find: some eight bytes of the secret
}

// Spellings are all that are hunted for, by name. Case never matters.
var Spellings = map[string]Spelling{
	"plain":                   {func(s string) string { return s }, 8},
	"reversed":                {reversed, 8},
	"query":                   {url.QueryEscape, 12},
	"path":                    {url.PathEscape, 12},
	"query twice":             {func(s string) string { return url.QueryEscape(url.QueryEscape(s)) }, 12},
	"percent":                 {func(s string) string { return each(s, "%%%02x") }, 24},
	"JSON":                    {inJSON, 12},
	"JSON in JSON":            {func(s string) string { return inJSON(inJSON(s)) }, 12},
	"JSON, slashes":           {func(s string) string { return strings.ReplaceAll(inJSON(s), "/", `\/`) }, 12},
	"JSON, all":               {func(s string) string { return each(s, `\u%04x`) }, 48},
	"C":                       {func(s string) string { return each(s, `\x%02x`) }, 32},
	"HTML":                    {html.EscapeString, 12},
	"entities":                {func(s string) string { return each(s, "&#%d;") }, 40},
	"hex entities":            {func(s string) string { return each(s, "&#x%x;") }, 48},
	"hex":                     {func(s string) string { return hex.EncodeToString([]byte(s)) }, 16},
	"quoted-printable":        {quoted, 12},
	"quoted-printable, all":   {func(s string) string { return each(s, "=%02X") }, 24},
	"numbers":                 {func(s string) string { return each(s, "%d ") }, 28},
	"base64":                  {inBase64(base64.StdEncoding, 0), 12},
	"base64 from byte 1":      {inBase64(base64.StdEncoding, 1), 12},
	"base64 from byte 2":      {inBase64(base64.StdEncoding, 2), 12},
	"base64 raw":              {inBase64(base64.RawStdEncoding, 0), 12},
	"base64url":               {inBase64(base64.URLEncoding, 0), 12},
	"base64url from byte 1":   {inBase64(base64.URLEncoding, 1), 12},
	"base64url from byte 2":   {inBase64(base64.URLEncoding, 2), 12},
	"base64url raw":           {inBase64(base64.RawURLEncoding, 0), 12},
	"base64, slashes escaped": {func(s string) string { return url.QueryEscape(inBase64(base64.StdEncoding, 0)(s)) }, 12},
}

func each(s, format string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, format, s[i])
	}
	return b.String()
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// inJSON never fails on a string.
func inJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b[1 : len(b)-1])
}

func quoted(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(s)) // to memory
	_ = w.Close()
	return b.String()
}

// inBase64 returns those digits that show nothing but the secret, where so many bytes stand before it.
func inBase64(enc *base64.Encoding, before int) func(string) string {
	return func(s string) string {
		digits := enc.EncodeToString([]byte(strings.Repeat("\x00", before) + s))
		return digits[(8*before+5)/6 : 8*(before+len(s))/6]
	}
}
