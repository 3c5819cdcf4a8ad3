package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// demoDirs returns the directories of demos that are still there.
func demoDirs(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "worker-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// Both demos make directories in TMPDIR, which belongs to the process: so this test is not parallel.
func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Run("once", demoOnce)
	t.Run("json", demoJSON)
	t.Run("until stopped", demoUntilStopped)
}

func demoOnce(t *testing.T) {
	r := worker(t, nil, "", "demo", "--once")
	if r.code != exitOK {
		t.Fatalf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, want := range []string{"6 of 6 samples ended as expected", "throttled; waiting", "no answer to the POST", "adopted connection", "failed: plaintext_secret"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "\x1b[") {
		t.Error("colours where there is no terminal")
	}
	noDemoSecrets(t, r)
	if left := demoDirs(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func noDemoSecrets(t *testing.T, r result) {
	t.Helper()
	for _, secret := range []string{"dapi-demo", "dapi0000", "demo-client-secret", "vaulttest-root"} {
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}

func demoJSON(t *testing.T) {
	r := worker(t, nil, "", "demo", "--once", "--json", "--log-level", "debug")
	if r.code != exitOK {
		t.Fatalf("exit %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	got := map[string]string{} // :: sample → outcome
	for line := range strings.Lines(r.stdout) {
		var v struct {
			Sample, Got string
			OK          bool
			Connections int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || !v.OK {
			t.Errorf("%v: %s", err, line)
		}
		got[v.Sample] = v.Got
	}
	if len(got) != 6 || got["lost"] != "adopted" || got["refused"] != "flow_rejected" || got["again"] != "created" {
		t.Errorf("got %v", got)
	}
	if !strings.Contains(r.stderr, "worker started") {
		t.Error("--log-level was not heeded")
	}
	noDemoSecrets(t, r)
}

// demoUntilStopped does what the demo tells people to do, and then presses Ctrl-C.
func demoUntilStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs safeBuffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"demo"}, nil, strings.NewReader(""), &out, &errs) }()
	out.await(t, "Ctrl-C ends the demo")
	for line := range strings.Lines(out.String()) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case strings.HasPrefix(words[len(words)-1], "http://") && len(words) < 4:
			mustAnswer(t, words[len(words)-1])
		case len(words) > 3 && strings.HasPrefix(line, "  ") && (words[1] == "submit" || words[1] == "status"):
			if r := worker(t, nil, "", words[1:]...); r.code != exitOK {
				t.Errorf("%s: exit %d:\n%s%s", line, r.code, r.stdout, r.stderr)
			}
		}
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d after Ctrl-C:\n%s", code, errs.String())
	}
	if left := demoDirs(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func mustAnswer(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s answers %s", url, resp.Status)
	}
}
