package flow

import (
	"encoding/json"
	"testing"
	"time"
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

// A time in another unit than the documented one must not seem to be long ago.
func TestInstantsOfEveryUnit(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	for _, src := range []string{"1795316400000", `"1795316400000"`, "1795316400", "1795316400000000", "1795316400000000000", "1.7953164e12",
		`"2026-11-22T03:00:00Z"`, `"2026-11-22T04:00:00.000+01:00"`} {
		var got instant
		if err := json.Unmarshal([]byte(src), &got); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", src, got.Time, err, want)
		}
	}
	for _, src := range []string{"null", "0", "-5", `""`, `"soon"`, "{}", "1e300", `"2026-11-22 03:00:00"`} {
		var got instant
		if err := json.Unmarshal([]byte(src), &got); err != nil || !got.IsZero() {
			t.Errorf("%s: %v, %v; want no time", src, got.Time, err)
		}
	}
}
