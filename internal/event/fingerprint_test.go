package event

import (
	"bufio"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

var writeFingerprints = flag.Bool("write-fingerprints", false, "add the fingerprints of new texts to testdata/fingerprints.txt")

// printedTexts are data whose fingerprints must never change: those of accepted requests are in ledgers, and the
// others in the ids of results.
func printedTexts(t testing.TB) []string {
	texts := []string{"", " ", "x", "{", "nul", "\xff", "{\"a\":\"\xff\"}", `null`, ` true `, `0`, `"a"`, `[]`, `{}`, " {\r\n\t} ", `{} {}`, `[1 2]`, `{"a":1,}`,
		goodData, " \n" + goodData + "\r\n", strings.ReplaceAll(goodData, "\n", "\r\n"), `{"a":null}`, `{"a":{"b":[{"c":{}},[],[[]]]}}`,
		// Names: order, escapes, repeats.
		`{"b":"","a":"","B":"","":"","aa":"","é":"","€":"","😀":"","\ufb33":"","\u20ac2":"","1":"","\r":"","\u0080":""}`,
		`{"\ud83d\ude00":"","\ufb33":"","\ue000":"","\u00e9":"","e\u0301":""}`, `{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"x":{"a":1,"a":1}}`, `{"\"\\\/\b":"x"}`,
		// Strings.
		`"\u0000\u0001\u0008\u0009\u000a\u000b\u000c\u000d\u000e\u001f\u0020\u0022\u002f\u005c\u007f\u0080\u009f\u00a0"`, `"\b\f\n\r\t\"\\\/"`,
		`"<>&'\u2028\u2029\u003c\u0026"`, "\"\u2028\u2029\x7f\u0080\ufeff\ufffd\uffff\"", `"\u00E9\u00e9é"`, `"\ud83d\ude00\uD83D\uDE00😀"`, `"\ud800"`, `"\udc00"`,
		`"\ud83d\u0041"`, `"\ude00\ud83d"`, `"\ud83dx"`, `"\ufffd\ufffe\uffff\udbff\udfff"`, `"e\u0301 \u00e9 \u212a ﬁ"`, `{"\ud800":1}`, "\"a\tb\"", `"\x"`, `"\u12"`}
	for _, n := range []string{"0", "-0", "-0.0", "0.0", "0e10", "1", "-1", "1.0", "1.50", "1e0", "1E1", "1e+1", "1e-1", "10", "100000000000000000000", "1e20", "1e21", "123456789012345678901234567890",
		"999999999999999999999", "1e22", "1e23", "1e-6", "1e-7", "0.000001", "0.0000001", "1.7976931348623157e308", "1.7976931348623159e308", "1e308", "1e309", "-1e309", "1e99999", "4.9e-324", "5e-324",
		"2e-324", "1e-400", "-1e-400", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
		"0.1", "0.30000000000000004", "3.141592653589793238462643383279", "333333333.33333329", "1e1000", "01", "+1", ".5", "1.", "-", "1e", "NaN", "Infinity", "0x10", "1_0",
		strings.Repeat("9", 64), strings.Repeat("9", 65), "0." + strings.Repeat("1", 62), "0." + strings.Repeat("1", 63)} {
		texts = append(texts, n, `{"a":[`+n+`]}`)
	}
	for _, change := range []map[string]any{
		{"description": absent{}}, {"description": ""}, {"name": "Ünïcödé 😀 \u2028 <&> \"quoted\" back\\slash /"}, {"description": "a\tb\nc\r\n"}, {"auth.params.catalog": "main", "ifExists": "adopt"},
		{"auth.params.domain": "https://ADB-1234567890123456.7.AzureDatabricks.net"}, {"connectionSpec.id": "E9D7EC6B-0873-4E57-AD21-B3A7C65E310B"}, {"auth.params.accessToken": "vault:a/b?version=3#c"},
		{"name": 7}, {"oops": nil}, {"oops": map[string]any{"b": []any{1, 2.5, nil, true, "x"}, "a": -1e-9}}, {"auth": nil}, {"auth.params.database": []any{}}, {"auth.params.accessToken": secret},
	} {
		texts = append(texts, with(t, goodData, change))
	}
	texts = append(texts, strings.Replace(goodData, "acme-db", `\u0061cme\u002ddb\/`, 1), strings.Replace(goodData, `"sandbox"`, `"s\u0061ndbox"`, 1), strings.Replace(goodData, "acme-db", `\ud800`, 1),
		strings.Replace(goodData, `"prod"`, `"prod","sandbox":"dev"`, 1), goodData[:len(goodData)-1], "["+strings.Repeat("1,", 520)+"1]", strings.Repeat("[", 64)+strings.Repeat("]", 64), strings.Repeat("[", 65)+strings.Repeat("]", 65))
	return texts
}

// printedForms are the forms that data comes in.
func printedForms(text string) map[string]Letter {
	event := `{"specversion":"1.0","id":"r-1","source":"/portal","type":"` + TypeCreate + `",`
	return map[string]Letter{
		"bare": letter(nil, text), "binary": letter(binary(nil), text), "structured": letter(nil, event+`"data": `+text+` }`),
		"base64": letter(nil, event+`"data_base64":"`+base64.StdEncoding.EncodeToString([]byte(text))+`"}`),
		"twice":  letter(nil, event+`"data":`+text+`,"data":{}}`), "both": letter(nil, event+`"data":`+text+`,"data_base64":"e30="}`),
	}
}

// TestFingerprintsStay holds fingerprints against those that version 0.3 computed, before its reader and its canonical
// form were replaced. What is a valid request since then is not among them.
func TestFingerprintsStay(t *testing.T) {
	t.Parallel()
	const file = "testdata/fingerprints.txt"
	want := map[string]string{}
	if f, err := os.Open(file); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			print, name, _ := strings.Cut(lines.Text(), " ")
			want[name] = print
		}
	}
	var added strings.Builder
	for _, text := range printedTexts(t) {
		for form, l := range printedForms(text) {
			if form == "both" && strings.TrimSpace(text) == "null" {
				continue // data_base64 alone, by now
			}
			name, got := form+" "+strconv.Quote(text), decode(l.Headers, string(l.Body)).Request.Fingerprint
			if want[name] == "" && *writeFingerprints {
				fmt.Fprintf(&added, "%s %s\n", got, name)
			} else if got != want[name] {
				t.Errorf("%s: got %s, want %q", name, got, want[name])
			}
		}
	}
	if added.Len() > 0 {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(added.String())
			defer f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
