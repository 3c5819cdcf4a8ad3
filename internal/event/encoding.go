package event

import (
	"bytes"
	"fmt"
)

// byteOrderMark is what some editors and libraries put before UTF-8.
var byteOrderMark = []byte("\xef\xbb\xbf")

// encodings are the ways in which JSON is written that is no UTF-8, by how a text begins: with a mark, or with
// zero bytes around its first character, which is ASCII in JSON. "." stands for any byte but zero.
var encodings = []struct{ begin, name, iconv string }{
	{"\xff\xfe\x00\x00", "UTF-32 (little-endian)", "UTF-32"},
	{"\x00\x00\xfe\xff", "UTF-32 (big-endian)", "UTF-32"},
	{"\xff\xfe", "UTF-16 (little-endian)", "UTF-16"},
	{"\xfe\xff", "UTF-16 (big-endian)", "UTF-16"},
	{".\x00\x00\x00", "UTF-32 (little-endian)", "UTF-32LE"},
	{"\x00\x00\x00.", "UTF-32 (big-endian)", "UTF-32BE"},
	{".\x00", "UTF-16 (little-endian)", "UTF-16LE"},
	{"\x00.", "UTF-16 (big-endian)", "UTF-16BE"},
}

// EncodingError is of a text in another encoding than UTF-8.
type EncodingError struct {
	Name  string // such as "UTF-16 (little-endian)"
	iconv string
}

// Error says what the text is, and how it becomes UTF-8.
func (e *EncodingError) Error() string {
	return fmt.Sprintf("in %s; want UTF-8, as JSON must be. Save it as UTF-8 or convert it: iconv -f %s -t UTF-8 (PowerShell writes UTF-8 with Set-Content -Encoding utf8)", e.Name, e.iconv)
}

// PlainText returns the text without the byte order mark that it may begin with. It fails with an *EncodingError
// on UTF-16 and UTF-32, with or without a mark, and on nothing else: whether the rest is UTF-8 is for others to say.
func PlainText(text []byte) ([]byte, error) {
	for _, e := range encodings {
		if begins(text, e.begin) {
			return nil, &EncodingError{e.name, e.iconv}
		}
	}
	return bytes.TrimPrefix(text, byteOrderMark), nil
}

func begins(text []byte, pattern string) bool {
	if len(text) < len(pattern) {
		return false
	}
	for i := range len(pattern) {
		if pattern[i] == '.' && text[i] == 0 || pattern[i] != '.' && text[i] != pattern[i] {
			return false
		}
	}
	return true
}
