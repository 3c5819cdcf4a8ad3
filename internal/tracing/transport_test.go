package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// trip is a RoundTripper made of a function.
type trip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func plainRoute(*http.Request) string { return "/route" }

func get(t *testing.T, ctx context.Context, via http.RoundTripper, url string) (status int, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set("Traceparent", callers)
	res, err := via.RoundTrip(req)
	if err == nil {
		status = res.StatusCode
		_ = res.Body.Close()
	}
	if len(req.Header) != 2 || req.Header.Get("Traceparent") != callers {
		t.Errorf("the caller's request was changed: %v", req.Header)
	}
	return status, err
}

// A call is a span that says what was called and how it ended, and nothing else; who is called is told of
// it.
func TestCallSpans(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	var told string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		w.Header().Set("X-Answer", "secret")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer service.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	via := k.Transport("pot", plainRoute, transport)
	span := k.Begin(delivery(callers))
	ctx := (&provision.Errand{Attempt: 3}).Into(span.Attach(k.ctx))
	if status, err := get(t, ctx, via, service.URL+"/a/b?name=secret&x=1#secret"); err != nil || status != http.StatusTeapot {
		t.Fatal(status, err)
	}
	span.End(provision.Outcome{}, "ack", nil)
	spans := k.spans()
	s := only(t, spans, "GET /route")
	host, port, _ := strings.Cut(strings.TrimPrefix(service.URL, "http://"), ":")
	want := map[string]string{
		"http.request.method": "GET", "server.address": host, "server.port": port, "url.full": service.URL + "/a/b", "url.template": "/route",
		"http.response.status_code": "418", "error.type": "418", "service.peer.name": "pot", "flow_worker.attempt": "3",
	}
	if diff := cmp.Diff(want, s.Attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if s.Parent != only(t, spans, "process connections.requests.{tenant}").ID || s.Kind != "CLIENT" || !s.Failed || told != "00-"+s.Trace+"-"+s.ID+"-01" {
		t.Errorf("span %+v; the service was told %q", s, told)
	}
	if strings.Contains(k.collector.Raw(), "secret") {
		t.Error("a query or a header is in a span")
	}
}

// A call that is a part of no work is no span, and its headers stay as they are.
func TestCallsOfNoWork(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	via := k.Transport("s", plainRoute, trip(func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Traceparent") != callers {
			t.Errorf("headers %v", r.Header)
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	if _, err := get(t, k.ctx, via, "http://s.example.com/"); err != nil {
		t.Error(err)
	}
	if n := len(k.spans()); n > 0 {
		t.Errorf("%d spans", n)
	}
}

type timeout struct{}

func (timeout) Error() string   { return "secret" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// Each call says how often in a row the same failed before it, in the same work.
func TestResends(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	script := []any{503, timeout{}, context.Canceled, errors.New("secret"), 200, 404, 200}
	i := 0
	via := k.Transport("s", plainRoute, trip(func(*http.Request) (*http.Response, error) {
		defer func() { i++ }()
		if status, ok := script[i%len(script)].(int); ok {
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		}
		return nil, script[i%len(script)].(error)
	}))
	one, other := k.Begin(delivery(callers)), k.Begin(delivery(callers))
	for range script {
		_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=1")
	}
	_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=1")   // fails
	_, _ = get(t, one.Attach(k.ctx), via, "http://s.example.com/a?q=2")   // another call
	_, _ = get(t, other.Attach(k.ctx), via, "http://s.example.com/a?q=1") // other work
	var got []string
	for _, s := range k.spans() {
		got = append(got, fmt.Sprint(s.Attrs["http.request.resend_count"], " ", s.Attrs["error.type"]))
	}
	want := []string{" 503", "1 timeout", "2 canceled", "3 failed", "4 ", " 404", "1 ", " 503", " timeout", " canceled"}
	if !slices.Equal(got, want) {
		t.Errorf("resends and ends %q, want %q", got, want)
	}
	if strings.Contains(k.collector.Raw(), "secret") {
		t.Error("an error's text is in a span")
	}
}

// Idle connections can be closed through it.
func TestIdleConnectionsAreReached(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	closed := 0
	below := closer{trip(nil), func() { closed++ }}
	(&http.Client{Transport: k.Transport("s", plainRoute, below)}).CloseIdleConnections()
	(&http.Client{Transport: k.Transport("s", plainRoute, trip(nil))}).CloseIdleConnections()
	if closed != 1 {
		t.Errorf("closed %d times", closed)
	}
}

type closer struct {
	trip
	close func()
}

// CloseIdleConnections counts.
func (c closer) CloseIdleConnections() { c.close() }

// Long texts are cut.
func TestLongValues(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	d := delivery(callers)
	d.Request.Key.ID = strings.Repeat("ä", 10_000)
	k.Begin(d).End(provision.Outcome{}, "ack", nil)
	s := only(t, k.spans(), "process connections.requests.{tenant}")
	if n := len([]rune(s.Attrs["flow_worker.request.id"])); n != maxValue {
		t.Errorf("%d characters", n)
	}
}
