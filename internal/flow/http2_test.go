package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"golang.org/x/net/http2"
)

// TestOnePostWhateverAnHTTP2ServerDoes counts the POSTs that arrive while the server ends their streams or connections
// in each way that lets net/http repeat a request that it can repeat.
func TestOnePostWhateverAnHTTP2ServerDoes(t *testing.T) {
	t.Parallel()
	reset := func(code http2.ErrCode) func(*peer, uint32) bool {
		return func(p *peer, stream uint32) bool { return p.WriteRSTStream(stream, code) == nil }
	}
	goAway := func(last uint32, code http2.ErrCode, goOn bool) func(*peer, uint32) bool {
		return func(p *peer, _ uint32) bool { return p.WriteGoAway(last, code, []byte(staticBearer)) == nil && goOn }
	}
	for name, do := range map[string]func(p *peer, stream uint32) bool{
		"closes":                   func(*peer, uint32) bool { return false },
		"refuses the stream":       reset(http2.ErrCodeRefusedStream),
		"resets: protocol":         reset(http2.ErrCodeProtocol),
		"resets: cancel":           reset(http2.ErrCodeCancel),
		"resets: no error":         reset(http2.ErrCodeNo),
		"resets: calm":             reset(http2.ErrCodeEnhanceYourCalm),
		"goes away, not processed": goAway(0, http2.ErrCodeNo, true),
		"goes away, closes":        goAway(0, http2.ErrCodeNo, false),
		"goes away, error":         goAway(0, http2.ErrCodeEnhanceYourCalm, true),
		"goes away, then closes":   goAway(1, http2.ErrCodeNo, false),
		"frame of the wrong kind":  func(p *peer, _ uint32) bool { return p.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) == nil },
		"answers without a status": func(p *peer, stream uint32) bool {
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true}) == nil
		},
		"half an answer, then ends": func(p *peer, stream uint32) bool {
			return p.WriteRawFrame(http2.FrameHeaders, 0, stream, nil) == nil && false
		},
	} {
		for when, at := range map[string]func(http2.Frame) bool{"at the headers": begun, "at the end": ended} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				r, hits := serveFrames(t, func(p *peer, frame http2.Frame) bool {
					return !at(frame) || do(p, frame.Header().StreamID)
				})
				_, err := r.create(t, staticAccount())
				if err == nil || err.Verdict != provision.VerdictUnknown || err.Cause != provision.CauseNetwork {
					t.Errorf("%+v: want an unknown outcome", err)
				}
				hits.want(t, postHeaders, 1)
			})
		}
	}
}

// TestGoAwayBeforeThePost: a connection that the server gives up right away carries no POST, or one that counts as sent.
// net/http may try the next connection as long as it has written nothing.
func TestGoAwayBeforeThePost(t *testing.T) {
	t.Parallel()
	for range 20 {
		r, hits := serveFrames(t, func(p *peer, frame http2.Frame) bool {
			if p.nth == 1 {
				_, first := frame.(*http2.SettingsFrame)
				return !first || p.WriteGoAway(0, http2.ErrCodeNo, nil) == nil
			}
			return !ended(frame) || p.created(frame.Header().StreamID)
		})
		_, err := r.create(t, staticAccount())
		posts := hits.get(postHeaders)
		switch {
		case err == nil && hits.get(postEnd) >= 1 && posts == 1:
		case err != nil && err.Verdict == provision.VerdictUnknown && posts <= 1:
		case err != nil && err.Verdict == provision.VerdictNotSent && posts == 0:
		default:
			t.Errorf("%+v after %d POSTs", err, posts)
		}
	}
}

// TestRetryTakesTheFenceAlong: net/http gives up a connection before it has written to it, and takes another one. The
// fence guards the second as it did the first, and no longer holds up the first.
func TestRetryTakesTheFenceAlong(t *testing.T) {
	t.Parallel()
	f := newFence(t.Context(), time.Now().Add(time.Hour))
	first, second := sharedBy(&recorder{}), sharedBy(&recorder{})
	f.armOn(first, true)
	f.armOn(second, true)
	if _, err := first.Write([]byte("another's")); err != nil {
		t.Error(err)
	}
	if f.sent {
		t.Error("what went over the first connection counts as sent")
	}
	if f.seal(); !second.ended || first.ended {
		t.Errorf("sealed: first ended %v, second %v; want the second alone", first.ended, second.ended)
	}
}

// sharedBy returns an HTTP/2 connection with fences on it.
func sharedBy(conn net.Conn, fences ...*fence) *fencedConn {
	c := newFencedConn(conn)
	c.http2 = true
	for _, f := range fences {
		f.armOn(c, true)
	}
	return c
}

func TestFencesOnASharedConnection(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do         func(a, b *fence, c *fencedConn)
		err        error // of the next Write
		sent, both bool  // a's POST, b's as well
	}{
		"a Write counts for each": {do: func(_, _ *fence, c *fencedConn) { _, _ = c.Write([]byte("x")) }, sent: true, both: true},
		"nothing is written":      {do: func(_, _ *fence, _ *fencedConn) {}},
		"one is over":             {do: func(_, b *fence, _ *fencedConn) { b.mono = time.Now() }, err: errTooLate},
		"one is over by the wall": {do: func(_, b *fence, _ *fencedConn) { b.wall = time.Now().Round(0) }, err: errTooLate},
		"one is given up":         {do: func(_, b *fence, _ *fencedConn) { b.seal() }, err: errEnded},
		"one is over, a was written": {do: func(a, b *fence, c *fencedConn) {
			_, _ = c.Write([]byte("x"))
			a.written(httptrace.WroteRequestInfo{})
			b.mono = time.Now()
		}, err: errTooLate, sent: true, both: true},
		"one came later and is over": {do: func(a, b *fence, c *fencedConn) {
			b.written(httptrace.WroteRequestInfo{})
			_, _ = c.Write([]byte("x"))
			a.written(httptrace.WroteRequestInfo{})
			b.armOn(c, true)
			b.mono = time.Now()
		}, err: errTooLate, sent: true},
		"one is over but written": {do: func(_, b *fence, c *fencedConn) {
			_, _ = c.Write([]byte("x"))
			b.written(httptrace.WroteRequestInfo{})
			b.mono = time.Now()
			b.seal()
		}, sent: true, both: true},
		"one is answered, not yet written": {do: func(_, b *fence, c *fencedConn) { _, _ = c.Write([]byte("x")); b.answered(); b.release() }, sent: true, both: true},
		"one is answered, never written, over": {do: func(_, b *fence, c *fencedConn) {
			_, _ = c.Write([]byte("x"))
			b.answered()
			b.release()
			b.mono = time.Now()
		}, err: errTooLate, sent: true, both: true},
		"the network fails": {do: func(_, _ *fence, c *fencedConn) { c.Conn.(*recorder).err = net.ErrClosed }, err: net.ErrClosed},
	} {
		conn := &recorder{}
		a, b := newFence(t.Context(), time.Now().Add(time.Hour)), newFence(t.Context(), time.Now().Add(time.Hour))
		c := sharedBy(conn, a, b)
		tc.do(a, b, c)
		gone := conn.got.Len()
		aSent, bSent := a.sent, b.sent
		if n, err := c.Write([]byte("y")); !errors.Is(err, tc.err) || err != nil && (n != 0 || conn.got.Len() != gone) {
			t.Errorf("%s: wrote %d bytes, %v; want %v", name, n, err, tc.err)
		}
		if tc.err != nil && (a.sent != aSent || b.sent != bSent) {
			t.Errorf("%s: a Write that was refused counts", name)
		}
		if aSent != tc.sent || bSent != tc.both {
			t.Errorf("%s: sent %v and %v, want %v and %v", name, aSent, bSent, tc.sent, tc.both)
		}
		if tc.err != nil && !errors.Is(tc.err, net.ErrClosed) {
			if _, err := c.Write([]byte("z")); !errors.Is(err, errEnded) || !conn.closed {
				t.Errorf("%s: the connection goes on: %v, closed %v", name, err, conn.closed)
			}
		}
	}
}

// TestSharedConnectionOutlivesItsFences: the time of the POST that a connection was dialed for is not that of others, and
// a Write that hangs ends when the first POST's time does.
func TestSharedConnectionOutlivesItsFences(t *testing.T) {
	t.Parallel()
	now := time.Now()
	conn := &recorder{}
	c := fencedBy(newFence(t.Context(), now.Add(-time.Second)), conn)
	a, b := newFence(t.Context(), now.Add(2*time.Hour)), newFence(t.Context(), now.Add(time.Hour))
	step := func(what string, want time.Time) {
		t.Helper()
		if _, err := c.Write([]byte("x")); err != nil || !conn.until.Equal(want) {
			t.Errorf("%s: %v, write deadline %v, want %v", what, err, conn.until, want)
		}
	}
	a.armOn(c, true)
	step("one POST", a.mono)
	b.armOn(c, true)
	step("two", b.mono)
	b.written(httptrace.WroteRequestInfo{})
	step("the second is written", a.mono)
	a.written(httptrace.WroteRequestInfo{})
	step("both are", time.Time{})
}

// TestHTTP2FramesOfNobodyPass: what answers the server's settings or pings holds no request.
func TestHTTP2FramesOfNobodyPass(t *testing.T) {
	t.Parallel()
	f := newFence(t.Context(), time.Now().Add(-time.Second))
	c := sharedBy(&recorder{}, f)
	f.written(httptrace.WroteRequestInfo{})
	if _, err := c.Write([]byte("x")); err != nil || f.sent {
		t.Errorf("%v, counted %v", err, f.sent)
	}
}

// TestFrozenWithHTTP2 holds a POST up between getting its connection, new or used, and the first byte of it.
func TestFrozenWithHTTP2(t *testing.T) {
	t.Parallel()
	_, r, hits := serveHTTP2(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	made, kinds := 0, new(tally)
	for i := range 20 {
		if i%2 == 0 {
			if _, err := r.create(t, staticAccount()); err != nil {
				t.Fatal(err)
			}
			made++
		}
		notAfter := time.Now().Add(20 * time.Millisecond)
		used := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
			used = got.Reused
			<-time.After(time.Until(notAfter) + time.Millisecond)
		}})
		_, err := r.Create(ctx, staticAccount(), newConnection(), notAfter)
		// On a new connection the server's settings are acknowledged meanwhile. The fence can't tell those bytes from
		// its own.
		cerr := callError(t, err)
		if cerr == nil || cerr.Cause != provision.CauseTimeout || cerr.Verdict != provision.VerdictNotSent && (used || cerr.Verdict != provision.VerdictUnknown) {
			t.Errorf("connection used before: %v: %+v: want not sent, by time-out", used, cerr)
		}
		kinds.add(fmt.Sprint(used))
	}
	if kinds.get("true") == 0 || kinds.get("false") == 0 {
		t.Error("not both kinds of connections: this test shows nothing")
	}
	hits.want(t, postCall, made)
}

// TestOneTooLateOfTwo: two POSTs share a connection. One is frozen before its first byte until its time is over, and is
// not sent; the other waits for its answer, and is unknown.
func TestOneTooLateOfTwo(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 2)
	r, hits := serveFrames(t, func(_ *peer, frame http2.Frame) bool {
		if settings, ok := frame.(*http2.SettingsFrame); ended(frame) || ok && settings.IsAck() {
			arrived <- struct{}{}
		}
		return true
	})
	other := make(chan error, 1)
	go func() {
		_, err := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute))
		other <- err
	}()
	<-arrived
	<-arrived // nobody writes any more
	notAfter := time.Now().Add(50 * time.Millisecond)
	var reused atomic.Bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		reused.Store(got.Reused)
		<-time.After(time.Until(notAfter) + time.Millisecond)
	}})
	_, err := r.Create(ctx, staticAccount(), newConnection(), notAfter)
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Cause != provision.CauseTimeout || !reused.Load() {
		t.Errorf("%+v, on the other's connection %v: want not sent, by time-out", cerr, reused.Load())
	}
	if cerr := callError(t, <-other); cerr == nil || cerr.Verdict != provision.VerdictUnknown {
		t.Errorf("%+v: want unknown", cerr)
	}
	hits.want(t, postHeaders, 1)
}

// TestBodyHeldUpByFlowControl: the server takes the headers of a POST and no byte of its body until the POST's time is
// over or its call was given up. Then it takes all it can get, and gets nothing.
func TestBodyHeldUpByFlowControl(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		time  time.Duration
		inert bool // the call's context ends with the headers
	}{"time over": {time: 100 * time.Millisecond}, "given up": {time: time.Minute, inert: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			over, gone := make(chan struct{}), make(chan struct{})
			r, hits := serveFrames(t, func(p *peer, frame http2.Frame) bool {
				stream := frame.Header().StreamID
				switch {
				case stream == 1 && ended(frame): // the next one on this connection finds no window
					return p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) == nil && p.created(stream)
				case stream == 3 && begun(frame):
					if tc.inert {
						cancel()
					}
					<-over
					_ = p.WriteWindowUpdate(stream, 1<<20)
					_, _ = io.Copy(io.Discard, readAll{p})
					close(gone)
					return false
				}
				return true
			})
			if _, err := r.create(t, staticAccount()); err != nil {
				t.Fatal(err)
			}
			bytes := hits.get(postData)
			_, err := r.Create(ctx, staticAccount(), newConnection(), time.Now().Add(tc.time))
			if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictUnknown {
				t.Errorf("%+v: want unknown", cerr)
			}
			close(over)
			<-gone
			hits.want(t, postHeaders, 2)
			hits.want(t, postData, bytes)
		})
	}
}

// readAll counts the bytes of bodies that still come.
type readAll struct{ p *peer }

func (r readAll) Read([]byte) (int, error) {
	frame, err := r.p.ReadFrame()
	if d, ok := frame.(*http2.DataFrame); ok {
		for range d.Data() {
			r.p.tally.add(postData)
		}
	}
	return 0, err
}

// countedConn counts what is written to it.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	defer c.writes.Add(1)
	return c.Conn.Write(b)
}

// TestWrittenWithHTTP2 shows what the fence relies on: net/http reports a request as written after its last byte was
// given to the network, though the body has to wait for the server.
func TestWrittenWithHTTP2(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	parts := 0
	r, hits := serveFrames(t, func(p *peer, frame http2.Frame) bool {
		_, data := frame.(*http2.DataFrame)
		stream := frame.Header().StreamID
		switch {
		case ended(frame) && stream == 1:
			return p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}) == nil && p.created(stream)
		case ended(frame):
			return p.created(stream)
		case data:
			parts++
			return p.WriteWindowUpdate(stream, 1<<20) == nil
		}
		return true
	}, func(c *Config) {
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return countedConn{conn, &writes}, err
		}
	})
	if _, err := r.create(t, staticAccount()); err != nil {
		t.Fatal(err)
	}
	reports := make(chan int64, 2)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		reports <- writes.Load()
	}})
	if _, err := r.Create(ctx, staticAccount(), newConnection(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, all := <-reports, writes.Load(); n != all {
		t.Errorf("reported as written after %d of %d Writes", n, all)
	}
	if parts == 0 || len(reports) > 0 {
		t.Errorf("the body came in %d parts and %d reports more: this test shows nothing", parts, len(reports))
	}
	hits.want(t, postEnd, 2)
}

// TestMoreStreamsThanAConnectionTakes: net/http opens further connections, and each POST arrives once. The limit is the
// least that RFC 9113 recommends, and what net/http takes for granted until it has read the server's settings.
func TestMoreStreamsThanAConnectionTakes(t *testing.T) {
	t.Parallel()
	const limit, posts = 100, 150
	var together sync.WaitGroup
	together.Add(posts)
	var conns atomic.Int64
	_, r, hits := serveHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
		together.Done()
		together.Wait()
		reply(w, 201, `{"id":"c1"}`)
	}, func(s *httptest.Server) {
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: limit}
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns.Add(1)
			}
		}
	})
	var wg sync.WaitGroup
	for range posts {
		wg.Go(func() {
			if _, err := r.create(t, staticAccount()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	hits.want(t, postCall, posts)
	if n := conns.Load(); n < 2 || n > posts/2 {
		t.Errorf("%d connections for %d POSTs at once, want more than one and few", n, posts)
	}
}

// TestOnePostPerAnswerWithHTTP2 lets the server answer every status there is.
func TestOnePostPerAnswerWithHTTP2(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	_, r, hits := serveHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		reply(w, int(status.Load()), `{"type":"https://ns.adobe.com/aep/errors/FLOW-1-400","errorMessage":"no"}`)
	})
	posts := 0
	for s := 200; s < 600; s++ {
		status.Store(int64(s))
		_, said := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute))
		posts++
		if err := callError(t, said); err == nil || err.Status != s || err.Verdict != statusVerdict(s) {
			t.Errorf("status %d: %+v", s, err)
		}
	}
	hits.want(t, postCall, posts)
}

// TestNoPostIsRepeatedOnAnHTTP2ConnectionThatIsGone closes the connections under POSTs that share them.
func TestNoPostIsRepeatedOnAnHTTP2ConnectionThatIsGone(t *testing.T) {
	t.Parallel()
	s, r, hits := serveHTTP2(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	var made, unknown atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				_, err := r.create(t, staticAccount())
				switch {
				case err == nil:
					made.Add(1)
				case err.Verdict == provision.VerdictUnknown:
					unknown.Add(1)
				case err.Verdict != provision.VerdictNotSent:
					t.Errorf("%+v, want unknown or not sent", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case <-done:
			if n := int64(hits.get(postCall)); n < made.Load() || n > made.Load()+unknown.Load() {
				t.Errorf("%d POSTs arrived, %d were made and %d unknown", n, made.Load(), unknown.Load())
			}
			return
		default:
			s.CloseClientConnections()
		}
	}
}

// TestIdleHTTP2ConnectionIsClosed: the bound of idleLife holds for HTTP/2 as well.
func TestIdleHTTP2ConnectionIsClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 64)
	_, r, _ := serveHTTP2(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) }, func(s *httptest.Server) {
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
	})
	if _, err := r.create(t, staticAccount()); err != nil {
		t.Fatal(err)
	}
	<-closed
}

// TestWrittenPostsLeaveTheirConnectionToOthers: a POST that was written whole and has no answer in time, or whose caller
// gives it up, ends alone.
func TestWrittenPostsLeaveTheirConnectionToOthers(t *testing.T) {
	t.Parallel()
	arrived, over := make(chan int, 1), make(chan struct{})
	r, hits := serveFrames(t, func(p *peer, frame http2.Frame) bool {
		if reset, ok := frame.(*http2.RSTStreamFrame); ok && reset.StreamID == 3 {
			<-over
			return p.created(1)
		}
		if ended(frame) {
			arrived <- p.nth
		}
		return true
	})
	other := make(chan error, 1)
	go func() {
		_, err := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute))
		other <- err
	}()
	first := <-arrived
	_, err := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(200*time.Millisecond))
	if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictUnknown || cerr.Cause != provision.CauseTimeout {
		t.Errorf("%+v: want unknown, by time-out", cerr)
	}
	close(over)
	if err := <-other; err != nil {
		t.Errorf("%v: want it made", err)
	}
	if second := <-arrived; first != second {
		t.Errorf("on connections %d and %d: this test shows nothing", first, second)
	}
	hits.want(t, postHeaders, 2)
}

// roundTrip is a transport of a test's own.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestFewDialsUntilTheServerSpeaksHTTP1: as long as nothing is known of the server, few POSTs at a time wait for a
// connection, and one that waits for them ends with its time. Once the server speaks HTTP/1.1 there is no limit.
func TestFewDialsUntilTheServerSpeaksHTTP1(t *testing.T) {
	t.Parallel()
	const posts = 10
	waiting, connected := make(chan struct{}, posts), make(chan struct{})
	d := &fewDials{slots: make(chan struct{}, 2), http1: make(chan struct{}), next: roundTrip(func(r *http.Request) (*http.Response, error) {
		waiting <- struct{}{}
		<-connected
		httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{Conn: &recorder{}})
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	send := func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/", http.NoBody)
		if err != nil {
			return err
		}
		_, err = d.RoundTrip(req) //nolint:bodyclose // there is no response
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range posts {
		wg.Go(func() { _ = send(ctx) })
	}
	<-waiting
	<-waiting
	over, end := context.WithCancel(t.Context())
	end()
	if err := send(over); !errors.Is(err, context.Canceled) || len(waiting) > 0 {
		t.Errorf("%v, %d more wait for a connection; want the context's end, and none", err, len(waiting))
	}
	close(connected)
	for range posts - 2 {
		<-waiting
	}
	cancel()
	wg.Wait()
}
