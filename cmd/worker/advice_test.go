package main

import (
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// The commands that the status page and the stories tell people to type are there, with these flags.
func TestAdviceCanBeTyped(t *testing.T) {
	t.Parallel()
	key := provision.Key{Tenant: "acme", Source: "/portal", ID: "r-1"}
	recs := []provision.Record{{Key: key}, {Key: key, Final: &provision.FinalResult{}}}
	for _, r := range provision.Reasons {
		recs = append(recs, provision.Record{Key: key, Final: &provision.FinalResult{Result: provision.Result{Error: provision.Fail(r, "no")}}})
	}
	typed := map[string]bool{"worker doctor": true, "worker resume": true} // of the status page's alarms
	for _, rec := range recs {
		for _, c := range story.Commands(rec) {
			typed[c.Line] = true
		}
	}
	for line := range typed {
		args := strings.Fields(line)
		if r := worker(t, nil, "", append(args[1:], "--help")...); r.code != exitOK || !strings.Contains(r.stdout, "worker "+args[1]) {
			t.Errorf("%s: exit %d\n%s", line, r.code, r.stderr)
		}
	}
	if len(typed) < 8 {
		t.Errorf("only %d commands: %v", len(typed), typed)
	}
	if r := worker(t, nil, "", "retry", "--no-such-flag", "--help"); r.code == exitOK {
		t.Error("a flag that is not there is taken")
	}
}
