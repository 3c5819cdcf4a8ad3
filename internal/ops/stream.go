package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Bounds of the streams of server-sent events.
const (
	maxStreams   = 32               // at once; a browser that is refused asks again
	streamEvery  = time.Second      // between looks for what has changed
	streamQuiet  = 15 * time.Second // after which something is sent though nothing has changed
	streamLife   = 15 * time.Minute // then the browser connects anew
	streamWrite  = 5 * time.Second  // for one event: who reads slower is cut off
	retryMillis  = "2000"           // how long a browser waits before it connects anew
	streamsFull  = "too many people are watching; the page itself still works"
	streamsEnded = "event: bye\ndata: {}\n\n"
)

// stream sends what look returns, whenever that has changed, as server-sent events, until the reader
// goes, the worker stops or the time is over. At most maxStreams are served at once.
func (p *pages) stream(w http.ResponseWriter, r *http.Request, look func(context.Context) any) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, streamsFull, http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamLife)
	defer cancel()
	s := sender{w: w, c: http.NewResponseController(w)}
	if err := s.begin(); err != nil || r.Method == http.MethodHead {
		return
	}
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for {
		if err := s.send(look(ctx)); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-stopping(r.Context()):
			_ = s.write([]byte(streamsEnded))
			return
		}
	}
}

// sender writes events. Each has a time limit of its own, which takes the place of the server's for
// whole answers.
type sender struct {
	w    http.ResponseWriter
	c    *http.ResponseController
	last []byte // what was sent last
	at   time.Time
}

func (s *sender) begin() error {
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.Header().Set("X-Accel-Buffering", "no") // proxies must not hold it back
	return s.write([]byte("retry: " + retryMillis + "\n\n"))
}

func (s *sender) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if bytes.Equal(data, s.last) {
		if time.Since(s.at) < streamQuiet {
			return nil
		}
		return s.write([]byte(": still here\n\n"))
	}
	s.last = data
	return s.write(append(append([]byte("data: "), data...), "\n\n"...)) // JSON has no line breaks
}

func (s *sender) write(event []byte) error {
	s.at = time.Now()
	_ = s.c.SetWriteDeadline(s.at.Add(streamWrite)) // where that can't be had the server's own stays
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	return s.c.Flush()
}

// stoppingKey is under which a request's context knows that its server stops.
type stoppingKey struct{}

// withStopping returns a context that outlives ctx and says when that has ended.
func withStopping(ctx context.Context) context.Context {
	return context.WithValue(context.WithoutCancel(ctx), stoppingKey{}, ctx.Done())
}

// stopping returns a channel that is closed when the server has begun to stop; nil, which never is, where
// nobody told.
func stopping(ctx context.Context) <-chan struct{} {
	done, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return done
}
