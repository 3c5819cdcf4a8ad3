package main

import (
	"strings"
	"testing"
)

// An empty id, as an unset variable of a script leaves it, is no request's, and least of all every request's. One
// that is too long for any request would be too long for NATS, too. Nothing is connected to for these.
func TestNamesThatNoRequestHas(t *testing.T) {
	t.Parallel()
	long, settle := strings.Repeat("x", 257), []string{"--absent", "--reason", "x", "--by", "ada", "--yes"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status", ""}, "the id is empty"},
		{[]string{"status", "", "--tenant", "acme"}, "the id is empty"},
		{[]string{"status", long}, "the id has 257 bytes; want 1 to 256 bytes"},
		{[]string{"status", "x", "--tenant", "bad.*"}, "--tenant is"},
		{[]string{"status", "x", "--tenant", strings.Repeat(long, 20)}, "--tenant is"},
		{[]string{"status", "x", "--source", long}, "--source has 257 bytes; want 1 to 256 bytes"},
		{[]string{"list", "--source", long}, "--source has 257 bytes"},
		{[]string{"retry", "", "--yes"}, "the id is empty"},
		{[]string{"retry", "x", "", "--dry-run"}, "the id is empty"},
		{[]string{"retry", "x", long, "--yes"}, "the id has 257 bytes"},
		{[]string{"retry", "--reason", "expired", "--source", long, "--yes"}, "--source has 257 bytes"},
		{append([]string{"resolve", ""}, settle...), "the id is empty"},
		{append([]string{"resolve", long}, settle...), "the id has 257 bytes"},
		{append([]string{"resolve", "x", "--source", long}, settle...), "--source has 257 bytes"},
	} {
		r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", c.args...)
		if r.code != exitUsage || !strings.Contains(r.stderr, c.want) || len(r.stderr) > 300 {
			t.Errorf("%.60q: exit %d, want %d with %q:\n%s", c.args, r.code, exitUsage, c.want, r.stderr)
		}
	}
	for _, args := range [][]string{{"status", long[1:]}, {"retry", long[1:], "--source", long[1:], "--yes"}} {
		if r := worker(t, []string{"NATS_URL=nats://127.0.0.1:1"}, "", args...); r.code != exitFailed || !strings.Contains(r.stderr, "not to be reached") {
			t.Errorf("%.60q of 256 bytes: exit %d:\n%s", args, r.code, r.stderr)
		}
	}
}
