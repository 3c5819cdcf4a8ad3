package canary

import (
	"encoding/base32"
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
	"percent, u":              {func(s string) string { return each(s, "%%u%04X") }, 48},
	"braces":                  {func(s string) string { return each(s, `\u{%x}`) }, 48},
	"octal":                   {func(s string) string { return each(s, `\%03o`) }, 32},
	"hex, colons":             {func(s string) string { return each(s, "%02x:") }, 24},
	"hex, as in Go":           {func(s string) string { return each(s, "0x%02x, ") }, 48},
	"code points":             {func(s string) string { return each(s, "U+%04X ") }, 56},
	"octal numbers":           {func(s string) string { return each(s, "%03o ") }, 32},
	"numbers":                 {func(s string) string { return each(s, "%d ") }, 28},
	"numbers, commas":         {func(s string) string { return each(s, "%d,") }, 28},
	"UTF-16":                  {func(s string) string { return each(s, "%c\x00") }, 16},
	"base32":                  {inBase32, 13},
	"base64 of base64":        {func(s string) string { return raw64(raw64(s)) }, 16},
	"base64 of hex":           {func(s string) string { return raw64(hex.EncodeToString([]byte(s))) }, 24},
	"base64 of UTF-16":        {func(s string) string { return raw64(each(s, "%c\x00")) }, 24},
	"base64 of JSON":          {func(s string) string { return raw64(inJSON(s)) }, 16},
	"hex of base64":           {func(s string) string { return hex.EncodeToString([]byte(raw64(s))) }, 24},
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

func raw64(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) }

// inBase32 returns those digits that show nothing but the secret.
func inBase32(s string) string {
	return base32.StdEncoding.EncodeToString([]byte(s))[:8*len(s)/5]
}

// inBase64 returns those digits that show nothing but the secret, where so many bytes stand before it.
func inBase64(enc *base64.Encoding, before int) func(string) string {
	return func(s string) string {
		digits := enc.EncodeToString([]byte(strings.Repeat("\x00", before) + s))
		return digits[(8*before+5)/6 : 8*(before+len(s))/6]
	}
}
