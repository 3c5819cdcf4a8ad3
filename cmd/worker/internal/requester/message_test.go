package requester_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

const data = `{"sandbox":"prod","name":"N","auth":{"specName":"Access Token Authentication","params":{
  "domain":"https://adb-1.7.azuredatabricks.net","clusterId":"c","accessToken":"vault:databricks/acme#accessToken","database":"d"}},
  "connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`

const whole = `{"specversion":"1.0","type":"flowworker.connection.create.v1","id":"e-1","source":"/portal","data":` + data + `}`

const mark = "\xef\xbb\xbf"

func options() requester.Options {
	return requester.Options{Tenant: "acme", Decoder: &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}}}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		input string
		tweak func(*requester.Options)
		ids   []string // empty text: a random one
	}{
		"data":                {input: data, ids: []string{""}},
		"data with an id":     {input: data, tweak: func(o *requester.Options) { o.ID = "mine" }, ids: []string{"mine"}},
		"a whole event":       {input: whole, ids: []string{"e-1"}},
		"another id for it":   {input: whole, tweak: func(o *requester.Options) { o.ID = "mine" }, ids: []string{"mine"}},
		"lines":               {input: whole + "\n" + strings.Join(strings.Fields(data), " ") + "\n", ids: []string{"e-1", ""}},
		"an array":            {input: "[" + data + "," + whole + "]", ids: []string{"", "e-1"}},
		"an array and a line": {input: "[" + whole + "]" + data, ids: []string{"e-1", ""}},
		"a byte order mark":   {input: mark + whole, ids: []string{"e-1"}},
		"marks of all forms":  {input: mark + data + "\r\n" + mark + whole + "\n" + mark + "[" + whole + ",\n" + data + "]\n" + mark + "\n", ids: []string{"", "e-1", "e-1", ""}},
		"files joined":        {input: mark + mark + whole + mark + whole, ids: []string{"e-1", "e-1"}},
		"nulls":               {input: strings.Replace(whole, `"sandbox"`, `"description":null,"ifExists":null,"sandbox"`, 1), ids: []string{"e-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options()
			if tc.tweak != nil {
				tc.tweak(&o)
			}
			ms, err := requester.Parse(strings.NewReader(tc.input), o)
			if err != nil || len(ms) != len(tc.ids) {
				t.Fatalf("got %d requests, %v; want %d", len(ms), err, len(tc.ids))
			}
			for i, m := range ms {
				if m.Invalid != nil || m.Name != "N" || m.Key.Tenant != "acme" {
					t.Errorf("request %d: %+v, %v", i, m.Key, m.Invalid)
				}
				if id := tc.ids[i]; id != "" && m.Key.ID != id || id == "" && !uuid.MatchString(m.Key.ID) {
					t.Errorf("request %d has id %q, want %q", i, m.Key.ID, id)
				}
			}
		})
	}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		input string
		id    string
		want  string
	}{
		"nothing":            {"", "", "no request"},
		"an empty array":     {"[]", "", "no request"},
		"no JSON":            {`{"accessToken": dapi-secret}`, "", "not JSON at byte 17 of 28:"},
		"a bad name":         {`{bad`, "", "not JSON at byte 2 of 4:"},
		"a bad second one":   {"{}\n{bad", "", "not JSON at byte 5 of 7:"},
		"half of it":         {`{"accessToken": "dapi-secret`, "", "ends in the middle"},
		"a text":             {`"dapi-secret"`, "", "not a JSON object"},
		"one id for two":     {data + data, "mine", "an id names one only"},
		"two events":         {whole + whole, "mine", "an id names one only"},
		"UTF-16 LE":          {"\xff\xfe{\x00}\x00", "", "is in UTF-16 (little-endian); want UTF-8"},
		"UTF-16 BE, no mark": {"\x00{\x00}", "", "is in UTF-16 (big-endian); want UTF-8"},
		"UTF-32":             {"\xff\xfe\x00\x00{\x00\x00\x00", "", "is in UTF-32 (little-endian); want UTF-8"},
		"nothing but a mark": {mark, "", "no request"},
		"a mark in a value":  {"{" + mark + "}", "", "not JSON at byte 2 of 5:"},
		"a mark in an array": {"[" + mark + "{}]", "", "not JSON at byte 2 of 7:"},
		"after two marks":    {mark + "{}\n" + mark + "{bad", "", "not JSON at byte 11 of 13:"},
		"a name given twice": {`{"specversion":"1.0","specversion":"dapi-secret"}`, "", "more than once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options()
			o.ID = tc.id
			_, err := requester.Parse(strings.NewReader(tc.input), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "dapi-secret") {
				t.Errorf("the input is quoted: %v", err)
			}
		})
	}
}

func TestParseJudgesAsAWorkerWould(t *testing.T) {
	t.Parallel()
	ms, err := requester.Parse(strings.NewReader(strings.Replace(data, "vault:databricks/acme#accessToken", "dapi-secret", 1)), options())
	if err != nil {
		t.Fatal(err)
	}
	if f := ms[0].Invalid; f == nil || f.Reason != provision.ReasonPlaintextSecret || strings.Contains(f.Message, "dapi-secret") {
		t.Errorf("got %v", f)
	}
}

// A worker passes over such an attribute; but the stream would keep the token.
func TestParseKeepsATokenInAnAttributeOutOfTheStream(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"subject", "time", "dataschema"} {
		input := strings.Replace(whole, `"id"`, `"`+name+`":"dapi0123456789abcdef0123456789abcdef","id"`, 1)
		ms, err := requester.Parse(strings.NewReader(input), options())
		if err != nil {
			t.Fatal(err)
		}
		if f := ms[0].Invalid; f == nil || f.Reason != provision.ReasonPlaintextSecret || !strings.Contains(f.Message, "/"+name+": holds what looks like a token") || strings.Contains(f.Message, "dapi") {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestNewIDIsNew(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id := requester.NewID()
		if seen[id] || !uuid.MatchString(id) {
			t.Fatalf("%q came twice or is no UUID", id)
		}
		seen[id] = true
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", data, whole, "[" + data + "]", "[[1]]", `{"specversion":1}`, "nul", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ms, err := requester.Parse(strings.NewReader(s), options())
		marked, errMarked := requester.Parse(strings.NewReader(mark+s), options())
		if len(marked) != len(ms) || (err == nil) != (errMarked == nil) && !strings.Contains(fmt.Sprint(err), "UTF-") {
			t.Errorf("%d requests, %v; behind a mark %d, %v", len(ms), err, len(marked), errMarked)
		}
		for i := range min(len(ms), len(marked)) {
			if ms[i].Fingerprint != marked[i].Fingerprint {
				t.Errorf("a mark changes the fingerprint of request %d", i+1)
			}
		}
		for _, m := range ms {
			if m.Key.ID == "" || m.Key.Source == "" || m.Fingerprint == "" {
				t.Errorf("a request without identity: %+v, %v", m.Key, err)
			}
		}
	})
}
