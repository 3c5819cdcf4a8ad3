package flow

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// recorder is a connection that takes down what is written to it.
type recorder struct {
	net.Conn
	got    bytes.Buffer
	err    error
	closed bool
	until  time.Time // the write deadline
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.got.Write(b)
}

func (r *recorder) SetWriteDeadline(t time.Time) error {
	r.until = t
	return nil
}

func (r *recorder) Close() error {
	r.closed = true
	return nil
}

// fencedBy returns a connection with f on it.
func fencedBy(f *fence, conn net.Conn) *fencedConn {
	c := newFencedConn(conn)
	c.fences = []*fence{f}
	return c
}

func TestFenceClosesOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFence(t.Context(), time.Now().Add(time.Second))
		conn := &recorder{}
		c := fencedBy(f, conn)
		f.arm(httptrace.GotConnInfo{Conn: c})
		<-time.After(time.Second - 1)
		if n, err := c.Write([]byte("in time")); n != 7 || err != nil {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
		<-time.After(1)
		if n, err := c.Write([]byte("too late")); n != 0 || !errors.Is(err, errTooLate) {
			t.Errorf("wrote %d bytes, %v; want none", n, err)
		}
		if conn.got.String() != "in time" || !f.seal() {
			t.Errorf("sent %q, counted: %v", conn.got.String(), f.seal())
		}
	})
}

// TestFenceUsesBothClocks sets the wall clock by hand, as seen by the fence.
func TestFenceUsesBothClocks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		f    *fence
		open bool
	}{
		"both early":                   {&fence{wall: now.Round(0).Add(time.Hour), mono: now.Add(time.Hour)}, true},
		"the machine was suspended":    {&fence{wall: now.Round(0).Add(-time.Hour), mono: now.Add(time.Hour)}, false},
		"the wall clock was put back":  {&fence{wall: now.Round(0).Add(time.Hour), mono: now.Add(-time.Hour)}, false},
		"both late":                    {&fence{wall: now.Round(0).Add(-time.Hour), mono: now.Add(-time.Hour)}, false},
		"at the very moment, and past": {&fence{wall: now.Round(0), mono: now}, false},
	} {
		if err := tc.f.check(); (err == nil) != tc.open {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewFenceTakesTheEarlierEnd(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), now.Add(time.Hour))
	defer cancel()
	for name, tc := range map[string]struct{ notAfter, want time.Time }{
		"notAfter":                     {now.Add(time.Minute), now.Add(time.Minute)},
		"notAfter without a monotonic": {now.Add(time.Minute).Round(0), now.Add(time.Minute)},
		"context":                      {now.Add(2 * time.Hour), now.Add(time.Hour)},
		"long ago":                     {time.Time{}, now.Add(-100 * 365 * 24 * time.Hour)},
	} {
		f := newFence(ctx, tc.notAfter)
		if late := f.mono.Sub(tc.want); late > time.Second || late < -time.Second && !tc.notAfter.IsZero() {
			t.Errorf("%s: monotonic end off by %v", name, late)
		}
		if late := f.wall.Sub(tc.want.Round(0)); late > time.Second || late < -time.Second && !tc.notAfter.IsZero() {
			t.Errorf("%s: wall clock end off by %v", name, late)
		}
	}
}

func TestFenceCountsOnlyTheRequest(t *testing.T) {
	t.Parallel()
	open := func() *fence { return newFence(context.Background(), time.Now().Add(time.Hour)) }
	for name, tc := range map[string]struct {
		do   func(f *fence, c *fencedConn)
		want bool
	}{
		"nothing":   {func(*fence, *fencedConn) {}, false},
		"handshake": {func(_ *fence, c *fencedConn) { _, _ = c.Write([]byte("x")) }, false},
		"request":   {func(f *fence, c *fencedConn) { f.arm(httptrace.GotConnInfo{Conn: c}); _, _ = c.Write([]byte("x")) }, true},
		"refused by network": {func(f *fence, c *fencedConn) {
			f.arm(httptrace.GotConnInfo{Conn: c})
			c.Conn.(*recorder).err = net.ErrClosed
			_, _ = c.Write([]byte("x"))
		}, false},
		"a used connection": {func(f *fence, c *fencedConn) { f.arm(httptrace.GotConnInfo{Conn: c, Reused: true}) }, false},
		"a request on a used connection": {func(f *fence, c *fencedConn) {
			other := newFence(context.Background(), time.Now().Add(time.Hour))
			_ = c.use(other)
			other.arm(httptrace.GotConnInfo{Conn: c})
			_, _ = c.Write([]byte("another's"))
			other.seal()
			other.done(true)
			f.arm(httptrace.GotConnInfo{Conn: c, Reused: true})
			_, _ = c.Write([]byte("x"))
		}, true},
		"another's request on a used connection": {func(f *fence, c *fencedConn) {
			other := newFence(context.Background(), time.Now().Add(time.Hour))
			_ = c.use(other)
			other.arm(httptrace.GotConnInfo{Conn: c})
			_, _ = c.Write([]byte("another's"))
			other.seal()
			other.done(true)
			f.arm(httptrace.GotConnInfo{Conn: c, Reused: true})
		}, false},
		"an unfenced connection": {func(f *fence, c *fencedConn) { f.arm(httptrace.GotConnInfo{Conn: c.Conn}) }, true},
		"no known connection":    {func(f *fence, _ *fencedConn) { f.arm(httptrace.GotConnInfo{}) }, true},
		"two connections": {func(f *fence, c *fencedConn) {
			f.arm(httptrace.GotConnInfo{Conn: c})
			f.arm(httptrace.GotConnInfo{Conn: fencedBy(f, &recorder{})})
		}, false},
		"behind TLS": {func(f *fence, c *fencedConn) {
			f.arm(httptrace.GotConnInfo{Conn: tls.Client(tls.Client(c, &tls.Config{}), &tls.Config{})})
		}, false},
		"an answer":         {func(f *fence, _ *fencedConn) { f.answered() }, true},
		"a Write under way": {func(f *fence, c *fencedConn) { f.arm(httptrace.GotConnInfo{Conn: c}); _ = f.beginWrite() }, true},
	} {
		f := open()
		c := fencedBy(f, &recorder{})
		tc.do(f, c)
		if got := f.seal(); got != tc.want {
			t.Errorf("%s: sent %v, want %v", name, got, tc.want)
		}
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, errSealed) && !errors.Is(err, errEnded) {
			t.Errorf("%s: wrote %d bytes through a sealed fence: %v", name, n, err)
		}
	}
}

func TestNoFenceNoConnection(t *testing.T) {
	t.Parallel()
	dial := fencedDial(func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, nil
	})
	if _, err := dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, errNoFence) {
		t.Errorf("%v, want errNoFence", err)
	}
}

// TestFrozenBeforeTheWrite holds the call up when its connection is ready and nothing is written yet,
// as a stopped process would be, until its time is over. Many times, for what must not happen would
// be a race.
func TestFrozenBeforeTheWrite(t *testing.T) {
	t.Parallel()
	url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	r := newRig(t, url)
	for range 20 {
		notAfter := time.Now().Add(20 * time.Millisecond)
		frozen := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
			<-time.After(time.Until(notAfter) + time.Millisecond)
			frozen = true
		}})
		_, err := r.Create(ctx, staticAccount(), newConnection(), notAfter)
		if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Cause != provision.CauseTimeout {
			t.Errorf("frozen %v: %+v: want not sent, by time-out", frozen, cerr)
		}
	}
	hits.want(t, postCall, 0)
}

// TestFrozenOnAUsedConnection: the fence stands on a connection that other POSTs went through as on a new one.
func TestFrozenOnAUsedConnection(t *testing.T) {
	t.Parallel()
	url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	r := newRig(t, url)
	used := 0
	for range 20 {
		if _, err := r.Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		notAfter := time.Now().Add(20 * time.Millisecond)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
			if got.Reused {
				used++
			}
			<-time.After(time.Until(notAfter) + time.Millisecond)
		}})
		_, err := r.Create(ctx, staticAccount(), newConnection(), notAfter)
		if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Cause != provision.CauseTimeout {
			t.Errorf("%+v: want not sent, by time-out", cerr)
		}
	}
	if used == 0 {
		t.Error("no connection was used again: this test shows nothing")
	}
	hits.want(t, postCall, 20)
}

func TestTooLateFromTheStart(t *testing.T) {
	t.Parallel()
	url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	r := newRig(t, url)
	for _, notAfter := range []time.Time{{}, time.Now().Add(-time.Nanosecond), time.Now().Round(0)} {
		_, err := r.Create(t.Context(), staticAccount(), newConnection(), notAfter)
		if cerr := callError(t, err); cerr == nil || cerr.Verdict != provision.VerdictNotSent || cerr.Cause != provision.CauseTimeout {
			t.Errorf("%+v: want not sent", cerr)
		}
	}
	hits.want(t, postCall, 0)
}
