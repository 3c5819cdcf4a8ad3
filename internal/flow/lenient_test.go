package flow

import (
	"encoding/json"
	"testing"
)

// The short cut for a plain string must read what encoding/json reads.
func TestTextReadsStringsAsJSONDoes(t *testing.T) {
	t.Parallel()
	for _, src := range []string{`""`, `"a"`, `"e9d7ec6b-0873"`, `"\"2a00\""`, `"a\\"`, `"ä"`, "\"\xff\"", `"\u00e4"`, `"\ud800"`, "\"\x7f\""} {
		var want string
		if err := json.Unmarshal([]byte(src), &want); err != nil {
			t.Fatal(err)
		}
		var got text
		if err := json.Unmarshal([]byte(src), &got); err != nil || string(got) != want {
			t.Errorf("%s: got %q, want %q, %v", src, got, want, err)
		}
	}
	for src, want := range map[string]string{`12`: "12", `-1.5`: "-1.5", `null`: "", `{}`: "", `["a"]`: "", `true`: ""} {
		var got text
		if err := json.Unmarshal([]byte(src), &got); err != nil || string(got) != want {
			t.Errorf("%s: got %q, want %q, %v", src, got, want, err)
		}
	}
}
