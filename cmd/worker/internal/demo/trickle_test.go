package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

func TestTrickledRequests(t *testing.T) {
	t.Parallel()
	for _, tenant := range []string{"acme", "globex"} {
		request, _, err := tutorialRequest(tenant, "name of "+tenant)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(request)
		var data struct {
			Name string
			Auth struct{ Params struct{ AccessToken string } }
		}
		if err != nil || json.Unmarshal(body, &data) != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if data.Name != "name of "+tenant || data.Auth.Params.AccessToken != "vault:databricks/"+tenant+"#accessToken" {
			t.Errorf("got %+v", data)
		}
	}
	kinds := map[flowtest.Effect]int{}
	for n := range 100 {
		for _, f := range mishap(n, "x") {
			kinds[f.Effect]++
			if f.Name != "x" || f.Times != 1 {
				t.Errorf("%d: the fault befalls others, or for ever: %+v", n, f)
			}
		}
	}
	if len(kinds) != 4 {
		t.Errorf("got %v", kinds)
	}
}

// stream is written to by the demo, and read by the test.
type stream struct {
	mu   sync.Mutex
	text bytes.Buffer
	grew chan struct{}
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.grew <- struct{}{}:
		default:
		}
	}()
	return s.text.Write(p)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// After the samples requests keep coming, until the demo ends. The demo's directory tells that it has ended.
func TestTrickleReachesTheFlowService(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &stream{grew: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Config{Out: out, Trickle: 10 * time.Millisecond, Program: "worker"}) }()
	shown := regexp.MustCompile(`http://\S+/_emulator/connections`)
	for !shown.MatchString(out.String()) {
		select {
		case <-out.grew:
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, out)
		}
	}
	if !strings.Contains(out.String(), "every 10ms") {
		t.Errorf("the demo does not tell of the trickle:\n%s", out)
	}
	for trickledTo(ctx, t, shown.FindString(out.String())) < 20 {
		if ctx.Err() != nil {
			t.Fatal("no requests come")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// trickledTo asks the emulator how many connections the trickle has made.
func trickledTo(ctx context.Context, t *testing.T, url string) (n int) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(body), "Databricks trickle ")
}
