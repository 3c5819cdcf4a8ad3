package ops

import (
	"context"
	"errors"
	"html"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestPageEscapes(t *testing.T) {
	t.Parallel()
	hostile := `</td></style><script>alert("1")</script><img src=x onerror='x'>` + "`{{.Version}}"
	health := &Health{Paused: func() bool { return true }}
	health.Add(hostile, func(context.Context) error { return errors.New(hostile) })
	s := &Status{Version: hostile, Since: time.Now(), Health: health, Sources: Sources{
		Queue:    func(context.Context) (Queue, error) { return Queue{}, errors.New(hostile) },
		Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetFlow, Scope: hostile, State: hostile}} },
	}}
	s.Started(provision.Key{Tenant: hostile, Source: hostile, ID: hostile}, 1).Reached(provision.State(hostile))
	s.Concluded(failed(hostile, hostile), false)
	ok := created(hostile)
	ok.Connection.ID = hostile
	s.Concluded(ok, false)
	body := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/").Body.String()
	for _, bad := range []string{"<script>", "<img", "</td></style>"} {
		if strings.Contains(body, bad) {
			t.Errorf("page holds %s:\n%s", bad, body)
		}
	}
	if n := strings.Count(html.UnescapeString(body), hostile); n < 12 {
		t.Errorf("only %d hostile texts are shown", n)
	}
}

func TestPageShows(t *testing.T) {
	t.Parallel()
	health := &Health{}
	health.Add("vault", func(context.Context) error { return errors.New("sealed") })
	s := &Status{Version: "1.2.3", Since: time.Now(), Health: health, Sources: Sources{
		Queue:    func(context.Context) (Queue, error) { return Queue{Pending: 17, OldestSeconds: 90}, nil },
		Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetVault, State: "open"}} },
	}}
	s.Started(key("in-work"), 1).Reached(provision.StateUnknown)
	s.Concluded(failed("r-9", "HTTP 400: bad spec"), false)
	w := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/")
	body := w.Body.String()
	for _, want := range []string{"1.2.3", "Not ready", "NOT READY: vault: sealed", ">17<", "1 min 30 s", "Vault", "circuit open", "in-work", "looked up",
		`http-equiv="refresh"`} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q:\n%s", want, body)
		}
	}
	if strings.Contains(body, "PAUSED") {
		t.Error("page says paused")
	}
	health.Paused = func() bool { return true }
	if body := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/").Body.String(); strings.Count(body, "PAUSED") < 2 {
		t.Error("page does not say loudly that the intake is paused")
	}
	for name, want := range map[string]string{"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": pagePolicy,
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Whatever is Sensitive stays so on the page too, even inside of an error.
func TestPageShowsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "dapi0123456789"
	health := &Health{}
	health.Add("vault", func(context.Context) error {
		return &provision.SecretError{Problem: provision.SecretDenied, Err: errors.New("token " + provision.NewSensitive(secret).String())}
	})
	s := &Status{Health: health}
	h := NewStatusHandler(s, StatusOptions{Pprof: true})
	for _, target := range []string{"/", "/status.json"} {
		body := ask(h, "GET", target).Body.String()
		if strings.Contains(body, secret) || !strings.Contains(body, provision.Redacted) {
			t.Errorf("%s: %s", target, body)
		}
	}
}

func TestStatusHost(t *testing.T) {
	t.Parallel()
	h := NewStatusHandler(&Status{}, StatusOptions{Hosts: []string{"worker.internal"}, Pprof: true})
	for host, want := range map[string]int{
		"127.0.0.1:8081": 200, "127.0.0.1": 200, "localhost:8081": 200, "LOCALHOST": 200, "[::1]:8081": 200, "[::1]": 200,
		"10.1.2.3:8081": 200, "worker.internal:80": 200, "Worker.Internal": 200,
		"evil.example": 403, "evil.example:8081": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "": 403,
	} {
		for _, target := range []string{"/", "/status.json", "/debug/pprof/"} {
			w := ask(h, "GET", target, "Host", host)
			if w.Code != want {
				t.Errorf("%s as %q: %d, want %d", target, host, w.Code, want)
			}
			if w.Header().Get("Content-Security-Policy") == "" {
				t.Errorf("%s as %q: no policy", target, host)
			}
		}
	}
}

func TestPprof(t *testing.T) {
	t.Parallel()
	on, off := NewStatusHandler(&Status{}, StatusOptions{Pprof: true}), NewStatusHandler(&Status{}, StatusOptions{})
	for target, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/heap?debug=1": 200, "/debug/pprof/cmdline": 404, "/other": 404} {
		if w := ask(on, "GET", target); w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
		if w := ask(off, "GET", target); w.Code != 404 {
			t.Errorf("%s without pprof: %d", target, w.Code)
		}
	}
}
