package ops

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func fine(context.Context) error { return nil }

// ask sends one request to h and returns the answer.
func ask(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:8081"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	down := func(context.Context) error { return errors.New("connection refused") }
	loud := func(context.Context) error { return errors.New(strings.Repeat("é\n", 500) + "\xff") }
	for name, c := range map[string]struct {
		checks map[string]CheckFunc
		paused bool
		code   int
		want   Report
	}{
		"no checks": {nil, false, 200, Report{Ready: true, Checks: []CheckResult{}}},
		"all well": {map[string]CheckFunc{"nats": fine}, false, 200,
			Report{Ready: true, Checks: []CheckResult{{Name: "nats", OK: true}}}},
		"one down": {map[string]CheckFunc{"vault": down}, false, 503,
			Report{Checks: []CheckResult{{Name: "vault", Reason: "connection refused"}}}},
		"paused": {map[string]CheckFunc{"nats": fine}, true, 200,
			Report{Ready: true, Paused: true, Note: pausedNote, Checks: []CheckResult{{Name: "nats", OK: true}}}},
		"paused and down": {map[string]CheckFunc{"nats": down}, true, 503,
			Report{Paused: true, Note: pausedNote, Checks: []CheckResult{{Name: "nats", Reason: "connection refused"}}}},
		"long reason": {map[string]CheckFunc{"nats": loud}, false, 503,
			Report{Checks: []CheckResult{{Name: "nats", Reason: strings.Repeat("é ", 133) + "…"}}}},
		"panic": {map[string]CheckFunc{"nats": func(context.Context) error { panic("secret") }}, false, 503,
			Report{Checks: []CheckResult{{Name: "nats", Reason: "the check panicked"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &Health{Paused: func() bool { return c.paused }}
			for name, call := range c.checks {
				h.Add(name, call)
			}
			w := ask(NewHandler(h, prometheus.NewRegistry()), "GET", "/readyz")
			var got Report
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || w.Code != c.code {
				t.Errorf("code %d, want %d; (-want +got):\n%s", w.Code, c.code, diff)
			}
			if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}

func TestReadyzNamesEveryCheckInOrder(t *testing.T) {
	t.Parallel()
	var h Health
	h.Add("nats", fine)
	h.Add("consumer", func(context.Context) error { return errors.New("not bound") })
	h.Add("vault", fine)
	want := Report{Checks: []CheckResult{{Name: "nats", OK: true}, {Name: "consumer", Reason: "not bound"}, {Name: "vault", OK: true}}}
	if diff := cmp.Diff(want, h.Report(t.Context())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A check that hangs costs one goroutine and its timeout, however often it is asked.
func TestHangingCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls, release := 0, make(chan struct{})
		var h Health
		h.Add("deaf", func(context.Context) error { calls++; <-release; return nil })
		h.Add("slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		got := h.Report(t.Context())
		if took := time.Since(start); took != checkTimeout {
			t.Errorf("took %v", took)
		}
		if got.Ready || got.Checks[0].Reason != "no answer: context deadline exceeded" || got.Checks[1].OK {
			t.Errorf("got %+v", got)
		}
		synctest.Wait()
		if got = h.Report(t.Context()); got.Checks[0].Reason != "no answer: context deadline exceeded" || calls != 1 {
			t.Errorf("got %+v after %d calls", got, calls)
		}
		close(release)
		synctest.Wait()
		if got = h.Report(t.Context()); !got.Checks[0].OK || calls != 2 {
			t.Errorf("got %+v after %d calls", got, calls)
		}
	})
}

// A probe right after another gets an answer of its own.
func TestProbesInARow(t *testing.T) {
	t.Parallel()
	var h Health
	calls := 0
	h.Add("nats", func(context.Context) error { calls++; return nil })
	for i := range 1000 {
		if got := h.Report(t.Context()); !got.Ready || calls != i+1 {
			t.Fatalf("probe %d: %+v after %d calls", i, got, calls)
		}
	}
}

// Probes at the same time share one call, and none of them can spoil it for the others.
func TestProbesAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls, release := 0, make(chan struct{})
		var h Health
		h.Add("nats", func(ctx context.Context) error {
			calls++
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		impatient, leave := context.WithCancel(t.Context())
		first, others := make(chan Report, 1), make(chan Report, 3)
		go func() { first <- h.Report(impatient) }()
		synctest.Wait()
		for range cap(others) {
			go func() { others <- h.Report(t.Context()) }()
		}
		synctest.Wait()
		leave()
		if got := <-first; got.Ready || got.Checks[0].Reason != "no answer: context canceled" {
			t.Errorf("who left got %+v", got)
		}
		close(release)
		for range cap(others) {
			if got := <-others; !got.Ready {
				t.Errorf("got %+v", got)
			}
		}
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestHealthz(t *testing.T) {
	t.Parallel()
	var h Health
	h.Add("nats", func(context.Context) error { return errors.New("down") })
	w := ask(NewHandler(&h, prometheus.NewRegistry()), "GET", "/healthz")
	if w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "flow_worker_x_seconds", Help: "X.", Buckets: []float64{1}})
	reg.MustRegister(duration)
	duration.(prometheus.ExemplarObserver).ObserveWithExemplar(0.5, prometheus.Labels{"trace_id": "0af7651916cd43dd"})
	h := NewHandler(&Health{}, reg)
	w := ask(h, "GET", "/metrics")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") || !strings.Contains(w.Body.String(), "flow_worker_x_seconds_count 1") {
		t.Errorf("got %d %v\n%s", w.Code, w.Header(), w.Body)
	}
	w = ask(h, "GET", "/metrics", "Accept", "application/openmetrics-text;version=1.0.0")
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") ||
		!strings.Contains(w.Body.String(), `# {trace_id="0af7651916cd43dd"} 0.5`) || !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Errorf("got %v\n%s", w.Header(), w.Body)
	}
}

func TestOnlyReading(t *testing.T) {
	t.Parallel()
	for target, h := range map[string]http.Handler{
		"/metrics":             NewHandler(&Health{}, prometheus.NewRegistry()),
		"/healthz":             NewHandler(&Health{}, prometheus.NewRegistry()),
		"/readyz":              NewHandler(&Health{}, prometheus.NewRegistry()),
		"/":                    NewStatusHandler(&Status{}, StatusOptions{}),
		"/status.json":         NewStatusHandler(&Status{}, StatusOptions{}),
		"/debug/pprof/":        NewStatusHandler(&Status{}, StatusOptions{Pprof: true}),
		"/debug/pprof/symbol":  NewStatusHandler(&Status{}, StatusOptions{Pprof: true}),
		"/debug/pprof/profile": NewStatusHandler(&Status{}, StatusOptions{Pprof: true}),
	} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			w := ask(h, method, target)
			if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", method, target, w.Code, w.Header().Get("Allow"))
			}
		}
		if target != "/debug/pprof/profile" {
			if w := ask(h, "HEAD", target); w.Code != 200 {
				t.Errorf("HEAD %s: %d", target, w.Code)
			}
		}
	}
}
