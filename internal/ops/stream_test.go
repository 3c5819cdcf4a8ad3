package ops

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// events is a reader of one stream.
type events struct {
	net.Conn
	lines *bufio.Reader
	head  *http.Response
}

// watch asks for a stream.
func watch(t *testing.T, ln *pipes, target string) *events {
	t.Helper()
	conn := ln.dial("GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
	t.Cleanup(func() { conn.Close() })
	//nolint:bodyclose // it is read to its end, or cut with its connection: closing it would wait for the rest
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &events{conn, bufio.NewReader(resp.Body), resp}
}

// next returns the next line that is not empty; an error as "end: …".
func (e *events) next() string {
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			return "end: " + err.Error()
		}
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
}

// seen parses an event.
func seen(t *testing.T, line string) (o overview) {
	t.Helper()
	data, ok := strings.CutPrefix(line, "data: ")
	if err := json.Unmarshal([]byte(data), &o); !ok || err != nil {
		t.Fatalf("%v: %.80s", err, line)
	}
	return o
}

// quiet is a status of which nothing changes but the time.
func quiet() *Status {
	return &Status{Version: "1.2.3", Since: time.Now(), Health: &Health{}, Sources: Sources{Ledger: &memLedger{}}}
}

// A stream tells of changes within a second or so, for longer than any other answer may take, and then
// has its reader connect anew.
func TestStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := quiet()
		ln := serving(t, NewStatusHandler(s, StatusOptions{}))
		start := time.Now()
		e := watch(t, ln, "/events")
		if got := e.head.Header.Get("Content-Type"); e.head.StatusCode != 200 || got != "text/event-stream" || e.head.Header.Get("Content-Security-Policy") != pagePolicy {
			t.Fatalf("%s, %s", e.head.Status, got)
		}
		if got := e.next(); got != "retry: "+retryMillis {
			t.Errorf("first comes %q", got)
		}
		first := seen(t, e.next())
		if first.Version != "1.2.3" || time.Since(start) > 0 {
			t.Errorf("after %v: %+v", time.Since(start), first)
		}
		s.Concluded(created("r-1"), false)
		if got := seen(t, e.next()); got.Figures[2].Value != "1" || time.Since(start) > 2*streamEvery {
			t.Errorf("after %v: %+v", time.Since(start), got.Figures)
		}
		n := 0
		last := ""
		for line := e.next(); !strings.HasPrefix(line, "end: "); line = e.next() {
			n, last = n+1, line
		}
		if lasted := time.Since(start); lasted != streamLife {
			t.Errorf("it lasted %v, want %v; at last came %.40s", lasted, streamLife, last)
		}
		if n < int(streamLife/streamEvery)-3 { // the time of day changes each second
			t.Errorf("%d events came", n)
		}
	})
}

// Where nothing changes, nothing is sent but a sign of life.
func TestStreamOfAStoryIsQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := make(chan string, 1000)
		p := newPages(quiet())
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.stream(w, r, func(context.Context) any { return "same" })
		})
		e := watch(t, serving(t, h), "/")
		start := time.Now()
		go func() {
			for line := e.next(); !strings.HasPrefix(line, "end: "); line = e.next() {
				log <- line
			}
			close(log)
		}()
		for _, want := range []string{"retry: " + retryMillis, `data: "same"`, ": still here", ": still here"} {
			if got := <-log; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if took := time.Since(start); took != 2*streamQuiet {
			t.Errorf("took %v, want %v", took, 2*streamQuiet)
		}
		e.Close()
	})
}

// There are only so many streams; the page itself is still to be had, and who leaves makes room.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := quiet()
		var looks atomic.Int32
		s.Sources.Queue = func(context.Context) (Queue, error) { looks.Add(1); return Queue{}, nil }
		ln := serving(t, NewStatusHandler(s, StatusOptions{}))
		var all []*events
		for range maxStreams {
			e := watch(t, ln, "/events")
			if e.head.StatusCode != 200 {
				t.Fatal(e.head.Status)
			}
			all = append(all, e)
			go func() { _, _ = io.Copy(io.Discard, e.lines) }()
		}
		late := watch(t, ln, "/events")
		if late.head.StatusCode != http.StatusServiceUnavailable || late.head.Header.Get("Retry-After") == "" {
			t.Errorf("one more gets %s", late.head.Status)
		}
		if page := watch(t, ln, "/"); page.head.StatusCode != 200 {
			t.Errorf("the page gets %s", page.head.Status)
		}
		looks.Store(0)
		<-time.After(time.Minute)
		synctest.Wait()
		if n := looks.Load(); n < 55 || n > 65 {
			t.Errorf("%d looks in a minute for %d streams, want one a second", n, maxStreams)
		}
		all[0].Close()
		<-time.After(2 * streamEvery)
		if again := watch(t, ln, "/events"); again.head.StatusCode != 200 {
			t.Errorf("after one has left, another gets %s", again.head.Status)
		}
	})
}

// Who does not read is cut off, and holds its place no longer than that.
func TestStreamCutsSlowReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		h := NewStatusHandler(quiet(), StatusOptions{})
		ln := serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r); close(ended) }))
		start := time.Now()
		e := watch(t, ln, "/events")
		e.next()
		<-ended
		if took := time.Since(start); took > streamEvery+streamWrite {
			t.Errorf("it held its place for %v", took)
		}
	})
}

// A worker that stops does not wait for those who watch.
func TestStreamsEndWithTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ln, ended := newPipes(), make(chan error, 1)
		book := &memLedger{}
		book.put(record("r-1", provision.StateWaiting))
		s := quiet()
		s.Sources.Ledger = book
		go func() { ended <- Serve(ctx, ln, NewStatusHandler(s, StatusOptions{}), slog.New(slog.DiscardHandler)) }()
		last := make(chan string, 2)
		for _, target := range []string{"/events", storyURL(key("r-1")) + "/events"} {
			e := watch(t, ln, target)
			go func() {
				said := ""
				for line := e.next(); !strings.HasPrefix(line, "end: "); line = e.next() {
					if strings.HasPrefix(line, "event: ") {
						said = line
					}
				}
				last <- said
			}()
		}
		<-time.After(time.Minute + 300*time.Millisecond)
		start := time.Now()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v to stop", took)
		}
		for range 2 {
			if got := <-last; got != "event: bye" {
				t.Errorf("at last came %q", got)
			}
		}
	})
}

func TestStreamHead(t *testing.T) {
	t.Parallel()
	w := ask(NewStatusHandler(quiet(), StatusOptions{}), "HEAD", "/events")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// The stream of a story follows its record, and shows it as it was while the ledger can't be read.
func TestStreamOfAStory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book := &memLedger{}
		book.put(record("r-1", provision.StateWaiting))
		s := quiet()
		s.Sources.Ledger = book
		ln := serving(t, NewStatusHandler(s, StatusOptions{}))
		e := watch(t, ln, storyURL(key("r-1"))+"/events")
		e.next()
		state := func() string {
			var p storyPage
			if err := json.Unmarshal([]byte(strings.TrimPrefix(e.next(), "data: ")), &p); err != nil {
				t.Fatal(err)
			}
			return p.State
		}
		if got := state(); got != "waiting" {
			t.Errorf("first it is %s", got)
		}
		book.put(record("r-1", provision.StatePosting))
		if got := state(); got != "posting" {
			t.Errorf("then it is %s", got)
		}
		book.mu.Lock()
		book.err = io.ErrUnexpectedEOF
		book.mu.Unlock()
		if got := e.next(); got != ": still here" {
			t.Errorf("in trouble comes %.80q", got)
		}
		e.Close()
	})
}
