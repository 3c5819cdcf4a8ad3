package flow

import (
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestNewChecksItsSettings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cfg  Config
		says string // "" for a good one
	}{
		"zero":               {Config{}, ""},
		"loopback":           {Config{BaseURL: "http://127.0.0.1:80/x/", IMSURL: "http://[::1]"}, ""},
		"localhost":          {Config{BaseURL: "http://localhost:8080"}, ""},
		"plain http":         {Config{BaseURL: "http://platform.adobe.io"}, "BaseURL is plain http"},
		"plain http, IMS":    {Config{IMSURL: "http://10.0.0.1"}, "IMSURL is plain http"},
		"like loopback":      {Config{BaseURL: "http://127.0.0.1.evil.example"}, "plain http"},
		"other scheme":       {Config{BaseURL: "ftp://host"}, "scheme"},
		"no scheme":          {Config{BaseURL: "host/path"}, "BaseURL must be https"},
		"user info":          {Config{BaseURL: "https://u:hunter2@host"}, "without user"},
		"query":              {Config{BaseURL: "https://host/?a=hunter2"}, "without user"},
		"no URL":             {Config{BaseURL: "https://hunter2%zz"}, "no URL"},
		"negative time-out":  {Config{Timeout: -1}, "Timeout"},
		"pauses upside down": {Config{RetryInitial: time.Hour, RetryMax: time.Second}, "RetryMax"},
		"long first pause":   {Config{RetryInitial: time.Hour}, ""},
	} {
		c, err := New(tc.cfg)
		if err == nil {
			c.Close()
		}
		if (err == nil) != (tc.says == "") || err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

func TestMetricsAreComplete(t *testing.T) {
	t.Parallel()
	r := newRig(t, "http://127.0.0.1:1")
	if n, err := testutil.GatherAndCount(r.registry, "flow_worker_flow_requests_total", "flow_worker_flow_request_duration_seconds"); err != nil || n != 2*8*6 {
		t.Errorf("%d series from the start, %v; want %d", n, err, 2*8*6)
	}
	problems, err := testutil.GatherAndLint(r.registry)
	if err != nil || len(problems) != 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestMetricsCountEachTry(t *testing.T) {
	t.Parallel()
	a := new(adobe)
	addr, _ := serve(t, a.ServeHTTP)
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, addr)
	r.post, r.ims.via, r.lists = m.observe(opCreate, r.post), m.observe(opToken, r.ims.via), m.observe(opList, r.lists)
	a.refuse.Store(1)
	_, _ = r.create(t, imsAccount())
	_, _ = r.create(t, imsAccount())
	_, _ = r.find(t, imsAccount(), provision.Query{})
	_, _ = r.Create(t.Context(), imsAccount(), newConnection(), time.Time{})
	for labels, want := range map[[2]string]float64{
		{"create", "4xx"}: 1, {"create", "2xx"}: 1, {"create", "error"}: 0, {"token", "2xx"}: 2, {"list", "2xx"}: 1, {"list", "5xx"}: 0,
	} {
		if got := testutil.ToFloat64(m.requests.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
}

func TestMetricsRegisterOnce(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c, err := New(Config{Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := New(Config{Registerer: reg}); err == nil {
		t.Error("want an error for metrics that exist already")
	}
}

func TestStatusClass(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{0: "error", 99: "error", 101: "1xx", 200: "2xx", 302: "3xx", 404: "4xx", 599: "5xx", 600: "error"} {
		if got := statusClass(status); got != want {
			t.Errorf("status %d: %s, want %s", status, got, want)
		}
	}
}
