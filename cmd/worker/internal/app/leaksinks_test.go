package app

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/ledger"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// sink is a place that a secret could leak into.
type sink struct {
	name  string
	read  func() string
	plant func(secret string) // puts a secret there; nil where nothing can be put by a test
	holds string              // what is there anyhow, to show that the right thing is searched
}

// sinks returns every place.
func (w *leakWorld) sinks() []sink {
	page := func(name, url, holds string, plant func(string)) sink {
		return sink{name, func() string { return w.get(url) }, plant, holds}
	}
	http, status := "http://"+w.at.HTTP, "http://"+w.at.Status
	all := []sink{
		{"log", w.log.String, func(s string) { w.worker.log.Debug("planted", "secret", s) }, "worker is ready"},
		page("/metrics", http+"/metrics", "flow_worker_requests_total", w.plantMetric),
		page("/healthz", http+"/healthz", "ok", nil),
		page("/readyz", http+"/readyz", "consumer", func(s string) { w.sick.Store(&s) }),
		page("status page", status+"/", "flow-worker", w.plantOutcome),
		page("status JSON", status+"/status.json", "outcomes", w.plantOutcome),
		page("status page: last errors", status+"/", "Flow Service", func(s string) { w.worker.status.Erred(provision.TargetFlow, errors.New(s)) }),
		{"status page: events", func() string { return w.firstEvent(status + "/events") }, w.plantOutcome, "data: {"},
		{"status page: stories", func() string { return w.stories(status) }, nil, "worker retry"},
		page("pprof goroutine?debug=1", status+"/debug/pprof/goroutine?debug=1", "goroutine profile", w.plantLabel),
		page("pprof goroutine?debug=2", status+"/debug/pprof/goroutine?debug=2", "goroutine ", nil),
		page("pprof goroutine", status+"/debug/pprof/goroutine", "runtime.", w.plantLabel),
		page("pprof heap?debug=1", status+"/debug/pprof/heap?debug=1", "heap profile", nil),
		page("pprof heap", status+"/debug/pprof/heap", "runtime.", nil),
		page("pprof allocs", status+"/debug/pprof/allocs", "runtime.", nil),
		page("pprof index, cmdline, symbol", status+"/debug/pprof/", "profile", nil),
		page("emulator: requests", w.flowURL+"/_emulator/requests", "counts", w.plantRequest),
		page("emulator: connections", w.flowURL+"/_emulator/connections", "connections", nil),
		{"NATS's files, without requests", func() string { return w.files(w.store) }, func(s string) { w.plantMessage("connections.results.acme.created", s) }, "CONNECTION_RESULTS"},
	}
	for kind, subject := range map[string]string{"results": "connections.results.acme.created", "dead letters": "connections.deadletters.acme",
		"ledger, every write": "$KV.connection-ledger.planted", "JetStream advisories": "$JS.EVENT.ADVISORY.planted", "JetStream calls": "$JS.API.planted",
		"NATS inboxes and acks": "_INBOX.planted"} {
		all = append(all, sink{"live: " + kind, func() string { return w.overheard(kind) }, func(s string) { w.plantMessage(subject, s) }, ""})
	}
	for _, stream := range []string{"CONNECTION_RESULTS", "CONNECTION_DEADLETTERS", "KV_connection-ledger"} {
		subject := map[string]string{"CONNECTION_RESULTS": "connections.results.acme.created", "CONNECTION_DEADLETTERS": "connections.deadletters.acme"}[stream]
		if subject == "" {
			subject = "$KV.connection-ledger.planted"
		}
		all = append(all, sink{"stored: " + stream, func() string { return w.stored(stream) }, func(s string) { w.plantMessage(subject, s) }, ""})
	}
	return all
}

// get returns a page with its header; packed ones are unpacked.
func (w *leakWorld) get(url string) string {
	w.t.Helper()
	resp, err := http.Get(url)
	check(w.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(w.t, err)
	if bytes.HasPrefix(body, []byte("\x1f\x8b")) {
		zip, err := gzip.NewReader(bytes.NewReader(body))
		check(w.t, err)
		body, err = io.ReadAll(zip)
		check(w.t, err)
	}
	var header strings.Builder
	check(w.t, resp.Header.Write(&header))
	return header.String() + string(body)
}

// firstEvent returns what a stream of events says first.
func (w *leakWorld) firstEvent(url string) string {
	w.t.Helper()
	resp, err := http.Get(url)
	check(w.t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			return lines.Text()
		}
	}
	w.t.Fatalf("%s says nothing", url)
	return ""
}

// stories returns a story of each outcome, as a page and as JSON, and what a search shows. The records of all
// are searched elsewhere.
func (w *leakWorld) stories(status string) string {
	w.t.Helper()
	var all strings.Builder
	told := map[string]bool{} // :: state and reason
	for e, err := range w.worker.ledger.Load().List(w.ctx, ledger.Filter{}) {
		check(w.t, err)
		kind := string(e.Record.State)
		if f := e.Record.Final; f != nil && f.Result.Error != nil {
			kind += " " + string(f.Result.Error.Reason)
		}
		if !told[kind] {
			told[kind] = true
			address := status + "/requests/" + e.Record.Key.String()
			all.WriteString(w.get(address) + w.get(address+".json"))
		}
	}
	return all.String() + w.get(status+"/requests?id=a")
}

// stored returns all messages of a stream, with their headers.
func (w *leakWorld) stored(stream string) string {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, stream)
	check(w.t, err)
	var all strings.Builder
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(w.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		check(w.t, err)
		all.WriteString(m.Subject + "\n")
		check(w.t, http.Header(m.Header).Write(&all))
		all.Write(m.Data)
	}
	return all.String()
}

// files returns the content and names of all files below a folder, but for the broker's copies of requests,
// which are as their senders wrote them.
func (w *leakWorld) files(dir string) string {
	w.t.Helper()
	var all strings.Builder
	check(w.t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // NATS removes files while we look
		case err != nil:
			return err
		case e.IsDir() && e.Name() == "CONNECTION_REQUESTS":
			return fs.SkipDir
		case e.IsDir():
			return nil
		}
		content, err := os.ReadFile(path)
		if err == nil {
			all.WriteString(path + "\n" + string(content))
		}
		return nil
	}))
	return all.String()
}

// look searches all sinks as they are now, for what only shows in passing.
func (w *leakWorld) look(when string) {
	w.t.Helper()
	for _, hit := range w.hunt(w.sinks()).Hits() {
		w.t.Errorf("%s, %s leaks %q as %s: …%s…", when, hit.Sink, hit.Canary, hit.Spelling, hit.Around)
	}
}

// hunt searches the sinks for all secrets that there are by now.
func (w *leakWorld) hunt(sinks []sink) *canary.Hunt {
	for i, token := range w.flow.allHeard() {
		if !w.isCanary(token) {
			w.canaries["IMS token "+string(rune('A'+i))] = token
		}
	}
	return w.huntOn(canary.NewHunt(w.canaries), sinks)
}

func (w *leakWorld) isCanary(token string) bool {
	for _, known := range w.canaries {
		if known == token {
			return true
		}
	}
	return false
}

func (w *leakWorld) huntOn(hunt *canary.Hunt, sinks []sink) *canary.Hunt {
	w.t.Helper()
	for _, s := range sinks {
		text := s.read()
		if !strings.Contains(text, s.holds) {
			w.t.Errorf("%s: holds no %q:\n%.500s", s.name, s.holds, text)
		}
		var but []string
		if strings.HasPrefix(s.name, "emulator") {
			but = []string{"static apiKey"} // as the Flow Service does, it tells it with every connection, as createdClient
		}
		hunt.Search(s.name, text, but...)
	}
	return hunt
}

// plantEverywhere shows that the search can fail: a secret in a sink is found there.
func (w *leakWorld) plantEverywhere() {
	w.t.Helper()
	planted := 0
	for _, s := range w.sinks() {
		if s.plant == nil {
			continue
		}
		secret := canary.New()
		s.plant(secret)
		hunt := canary.NewHunt(map[string]string{s.name: secret})
		found := func() bool { return hunt.Search(s.name, s.read()) == 1 }
		for end := time.Now().Add(10 * time.Second); !found() && time.Now().Before(end); {
			check(w.t, w.spy.Flush())
		}
		if len(hunt.Hits()) == 0 {
			w.t.Errorf("%s: the secret that was planted there is not found", s.name)
		}
		planted++
	}
	w.t.Logf("a secret was planted in %d of the sinks, and found", planted)
}

func (w *leakWorld) plantMetric(secret string) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "planted", Help: "x", ConstLabels: prometheus.Labels{"x": secret}})
	check(w.t, w.worker.registry.Register(g))
}

func (w *leakWorld) plantOutcome(secret string) {
	w.worker.status.Concluded(provision.Result{Outcome: provision.OutcomeFailed, Error: provision.Fail(provision.ReasonInternal, secret)}, false)
}

func (w *leakWorld) plantLabel(secret string) {
	ready := make(chan struct{})
	go pprof.Do(w.ctx, pprof.Labels("planted", secret), func(ctx context.Context) { close(ready); <-ctx.Done() })
	<-ready
}

func (w *leakWorld) plantMessage(subject, secret string) {
	check(w.t, w.spy.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"X": {secret}}}))
	check(w.t, w.spy.Flush())
}

func (w *leakWorld) plantRequest(secret string) {
	resp, err := http.Post(w.flowURL+"/data/foundation/flowservice/connections?planted="+secret[:6]+"&x="+strings.NewReplacer("%", "", `"`, "", "<", "", `\`, "", "&", "").Replace(secret), "application/json", strings.NewReader(`{}`))
	check(w.t, err)
	check(w.t, resp.Body.Close())
}
