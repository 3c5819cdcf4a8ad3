package consumer

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	for text, old := range map[string]bool{
		"2.10.3": true, "2.9.25": true, "1.99.99": true, "2.10.4": false, "2.10.10": false, "2.11.0": false,
		"2.12.0-RC.1": false, "v2.10.5+build": false, "3.0.0": false,
	} {
		v, err := parseVersion(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if v.less(minServer) != old {
			t.Errorf("%s is older than %s: %v, want %v", text, minServer, !old, old)
		}
	}
	for _, text := range []string{"", "2", "2.10", "a.b.c", "2.10.4x", "2.10.99999999999999999999"} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("%q was read as %s", text, v)
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		by, p string
		want  bool
	}{
		{"a.*", "a.*", true}, {"a.>", "a.*", true}, {"a.>", "a.>", true}, {">", "a.*", true}, {"*.*", "a.*", true},
		{"a.*", "a.b", true}, {"a.b", "a.*", false}, {"a.*", "a.>", false}, {"a.*", "a.*.*", false}, {"a.*.*", "a.*", false},
		{"a.>", "a", false}, {"b.*", "a.*", false}, {"a", "a", true},
	} {
		if got := covers(c.by, c.p); got != c.want {
			t.Errorf("covers(%q, %q) = %v", c.by, c.p, got)
		}
	}
}

func TestUnite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ have, want, out []string }{
		{nil, []string{"a.*"}, []string{"a.*"}},
		{[]string{"a.x", "b", "a.y"}, []string{"a.*"}, []string{"b", "a.*"}},
		{[]string{"a.>"}, []string{"a.*"}, []string{"a.>"}},
	} {
		before := slices.Clone(c.have)
		if got := unite(c.have, c.want); !slices.Equal(got, c.out) {
			t.Errorf("unite(%q, %q) = %q, want %q", c.have, c.want, got, c.out)
		}
		if !slices.Equal(before, c.have) {
			t.Errorf("unite changed its argument to %q", c.have)
		}
	}
}

func TestTenantOf(t *testing.T) {
	t.Parallel()
	if got := tenantOf("connections.requests.acme"); got != "acme" {
		t.Errorf("tenant %q, want acme", got)
	}
	for _, subject := range []string{"acme", "", "connections.requests.", "connections.requests.a.b", "connections.results.acme", "x.connections.requests.acme"} {
		if got := tenantOf(subject); provision.ValidTenant(got) {
			t.Errorf("%q names the tenant %q", subject, got)
		}
	}
}

func TestOldestIn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	info := func(msgs uint64, first, at time.Time) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{State: jetstream.StreamState{Msgs: msgs, FirstTime: first}, TimeStamp: at}
	}
	if got := oldestIn(info(1, now.Add(-time.Minute), now)); got != time.Minute {
		t.Errorf("age %v, want 1m", got)
	}
	for name, i := range map[string]*jetstream.StreamInfo{
		"empty": info(0, now.Add(-time.Minute), now), "from the future": info(1, now.Add(time.Minute), now),
		"no server time": info(1, time.Now().Add(time.Hour), time.Time{}),
	} {
		if got := oldestIn(i); got != 0 {
			t.Errorf("%s: age %v, want 0", name, got)
		}
	}
}

func TestOutcomeOf(t *testing.T) {
	t.Parallel()
	created := &provision.Result{Outcome: "created"}
	adopted := &provision.Result{Outcome: "created", Adopted: true}
	failed := &provision.Result{Outcome: "failed"}
	for _, c := range []struct {
		out  provision.Outcome
		want string
	}{
		{provision.Outcome{Result: created}, "created"},
		{provision.Outcome{Result: adopted}, "adopted"},
		{provision.Outcome{Result: failed}, "failed"},
		{provision.Outcome{Result: created, Repeat: true, Resumed: true}, "created"},
		{provision.Outcome{Result: created, Repeat: true}, "duplicate"},
	} {
		if got := outcomeOf(c.out); got != c.want {
			t.Errorf("outcomeOf(%+v) = %q, want %q", c.out, got, c.want)
		}
	}
}

// TestMetricsAreAllThere holds the metrics against the contract: every label value exists before
// anything has happened.
func TestMetricsAreAllThere(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	all, err := testutil.GatherAndCount(reg)
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	series := map[string]int{
		"requests_total": 4, "request_failures_total": 15, "request_duration_seconds": 4, "requests_in_flight": 1,
		"deliveries_total": 4, "retries_total": 12, "reconciliations_total": 4, "queue_pending": 1, "queue_ack_pending": 1,
		"queue_redelivered": 1, "queue_oldest_seconds": 1, "paused": 1, "nats_connected": 1,
		"queue_orphans": 1, "ledger_stuck": 1, "dead_letters": 1, "repairs_total": 4,
	}
	for name, want := range series {
		if got, err := testutil.GatherAndCount(reg, "flow_worker_"+name); err != nil || got != want {
			t.Errorf("%s has %d series, want %d: %v", name, got, want, err)
		}
	}
	for _, target := range []provision.Target{provision.TargetFlow, provision.TargetVault, provision.TargetIMS} {
		m.Retried(target, provision.CauseTimeout)
	}
	m.Reconciled(provision.ReconciledSeveral)
	failure := &provision.Result{Outcome: "failed", Error: provision.Fail(provision.ReasonExpired, "")}
	traced := provision.Delivery{Request: provision.Request{Trace: provision.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}
	m.concluded(traced, provision.Outcome{Result: failure}, time.Minute)
	m.concluded(provision.Delivery{}, provision.Outcome{Result: failure}, -time.Minute) // clocks differ
	if got, err := testutil.GatherAndCount(reg); err != nil || got != all {
		t.Errorf("%d series after use, want %d as before: %v", got, all, err)
	}
	if got := testutil.ToFloat64(m.failures.WithLabelValues("expired")); got != 2 {
		t.Errorf("%v failures, want 2", got)
	}
}

func TestJitterStaysNear(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if got := jitter(time.Second); got < 750*time.Millisecond || got > 1250*time.Millisecond {
			t.Fatalf("jitter(1s) = %v", got)
		}
	}
}

// exemplars returns the values of the labels of a metric's exemplars: a counter's, or those of a
// histogram's classic buckets.
func exemplars(t *testing.T, from prometheus.Gatherer, name string) (values []string) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != prefix+name {
				continue
			}
			for _, l := range m.GetCounter().GetExemplar().GetLabel() {
				values = append(values, l.GetValue())
			}
			for _, b := range m.GetHistogram().GetBucket() {
				for _, l := range b.GetExemplar().GetLabel() {
					values = append(values, l.GetValue())
				}
			}
		}
	}
	return values
}

// A failure's counters and its duration lead to its trace; what came without one leads nowhere.
func TestExemplarsOfConclusions(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string][]string{"00-" + id + "-b7ad6b7169203331-01": {id}, "00-" + id + "-b7ad6b7169203331-00": nil, "": nil, "00-\xff-\xff-01": nil} {
		reg := prometheus.NewRegistry()
		d := provision.Delivery{Request: provision.Request{Trace: provision.Trace{Parent: parent}}}
		failed := &provision.Result{Outcome: provision.OutcomeFailed, Error: provision.Fail(provision.ReasonInternal, "")}
		NewMetrics(reg).concluded(d, provision.Outcome{Result: failed}, time.Minute)
		for _, name := range []string{"requests_total", "request_failures_total", "request_duration_seconds"} {
			if got := exemplars(t, reg, name); !slices.Equal(got, want) {
				t.Errorf("%s of a request with traceparent %q has the exemplars %q, want %q", name, parent, got, want)
			}
		}
	}
}

// The duration is a classic histogram and a native one at the same time.
func TestDurationIsBothKindsOfHistogram(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	created := &provision.Result{Outcome: provision.OutcomeCreated}
	NewMetrics(reg).concluded(provision.Delivery{}, provision.Outcome{Result: created}, time.Second)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	observed := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			if h == nil {
				continue
			}
			if n := len(h.GetBucket()); n != len(durationBuckets) || h.Schema == nil {
				t.Errorf("%d classic buckets, want %d; native with schema %v", n, len(durationBuckets), h.Schema)
			}
			observed += len(h.GetPositiveSpan()) * int(h.GetSampleCount())
		}
	}
	if observed != 1 {
		t.Errorf("%d observations in native buckets, want 1", observed)
	}
}

func TestRepairable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	young := &jetstream.StreamInfo{TimeStamp: now, State: jetstream.StreamState{Msgs: 2, FirstTime: now.Add(-28 * 24 * time.Hour)}}
	ancient := &jetstream.StreamInfo{TimeStamp: now, State: jetstream.StreamState{Msgs: 2, FirstTime: now.Add(-30 * 24 * time.Hour)}}
	for name, tc := range map[string]struct {
		stream *jetstream.StreamInfo
		info   jetstream.ConsumerInfo
		waited int
		want   string // part of why not
	}{
		"quiet":                     {young, jetstream.ConsumerInfo{}, 0, ""},
		"others wait":               {young, jetstream.ConsumerInfo{NumPending: 7}, 0, ""},
		"one is in hand":            {young, jetstream.ConsumerInfo{NumAckPending: 1}, 59, "hands"},
		"one always is in hand":     {young, jetstream.ConsumerInfo{NumAckPending: 1}, 60, ""},
		"the ledger may forget one": {ancient, jetstream.ConsumerInfo{}, 1000, "expired"},
	} {
		err := repairable(tc.stream, &tc.info, tc.waited)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// What did not help is not tried at every look.
func TestARepairIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	failed := errors.New("no right to")
	c := &Consumer{Config: Config{Sweep: SweepConfig{Interval: time.Minute}}}
	for ago, want := range map[time.Duration]error{59 * time.Minute: failed, 61 * time.Minute: nil} {
		s := &queueSweep{Consumer: c, tried: time.Now().Add(-ago), failed: failed}
		if err := s.recently(); !errors.Is(err, want) {
			t.Errorf("tried %v ago: %v, want %v", ago, err, want)
		}
	}
	if err := (&queueSweep{Consumer: c}).recently(); err != nil {
		t.Errorf("never tried: %v", err)
	}
}
