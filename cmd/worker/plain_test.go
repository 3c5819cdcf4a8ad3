package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What others wrote comes out of errors, too: they may not steer the terminal, nor look like two.
func TestErrorsAreSafe(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2J\u202e\x07\r\nworker: all is well\u009b"
	const want = "worker: " + `a\x1b[2J\u202e\a\r` + "\n  " + `worker: all is well\u009b` + "\n"
	for name, tc := range map[string]struct {
		err  error
		code int
	}{
		"work":     {&workError{errors.New(hostile)}, exitFailed},
		"usage":    {usagef("%s", hostile), exitUsage},
		"reported": {errReported, exitFailed},
	} {
		var b strings.Builder
		code := (&cli{stderr: &b}).report(tc.err)
		if got := b.String(); code != tc.code || got != want && name != "reported" || name == "reported" && got != "" {
			t.Errorf("%s: exit %d, %q", name, code, got)
		}
	}
	r := newTestWorld(t).worker("", "status", "--no\x1b[31m")
	if r.code != exitUsage || !strings.Contains(r.stderr, `--no\x1b[31m`) || strings.ContainsRune(r.stderr, '\x1b') {
		t.Errorf("a flag: exit %d, %q", r.code, r.stderr)
	}
}

func TestTablesAreSafeAndFitATerminal(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := printRows(&b, [][]string{{"a\nb", "c\td"}}); err != nil || b.String() != "a\\nb  c\\td\n" {
		t.Errorf("got %q, %v", b.String(), err)
	}
	long := strings.Repeat("é", 256)
	got := fit([][]string{{"ID", "NAME"}, {long, long}, {strings.Repeat("\n", 30), ""}})
	want := [][]string{{"ID", "NAME"}, {strings.Repeat("é", columnMax-1) + "…", long}, {strings.Repeat(`\n`, 19) + `\…`, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A name that its message may not have is refused before anything is sent.
func TestSubmitRefusesUnreadableNames(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	if r := w.worker("", "init"); r.code != exitOK {
		t.Fatal(r.stderr)
	}
	for _, flag := range []string{"--id", "--source"} {
		for _, name := range []string{"a\nb", "\x1b[31m", "a\xff", strings.Repeat("x", 257)} {
			for _, more := range []string{"--json", "--dry-run"} {
				r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", flag, name, more, "-")
				if r.code != exitUsage || !strings.Contains(r.stderr, flag) || r.stdout != "" {
					t.Errorf("%s %q %s: exit %d: %s%s", flag, name, more, r.code, r.stdout, r.stderr)
				}
			}
		}
	}
	event := `{"specversion":"1.0","type":"flowworker.connection.create.v1","source":"/s","id":"a\nb","data":` + request("A", goodToken) + `}`
	if r := w.worker(event, "submit", "--tenant", "acme", "-"); r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "/id") {
		t.Errorf("an event with such an id: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	stream, err := w.jetStream().Stream(t.Context(), "CONNECTION_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages were published", n)
	}
	r := w.worker(request("A", goodToken), "submit", "--tenant", "acme", "--id", "a\u202eb", "-")
	if r.code != exitOK || !strings.HasPrefix(r.stdout, `a\u202eb  published`) {
		t.Errorf("a legal id: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}
