package flow

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// serveHTTP2 starts a server that offers HTTP/2. It fails the test if it is asked by HTTP/1.1.
func serveHTTP2(t *testing.T, h http.HandlerFunc, change ...func(*httptest.Server)) (*httptest.Server, *rig, *tally) {
	t.Helper()
	hits := new(tally)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("protocol %s, want HTTP/2", r.Proto)
		}
		hits.add(r.Method + " " + r.URL.Path)
		h(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that net/http needs no more
	for _, f := range change {
		f(s)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, newRig(t, s.URL, func(c *Config) { c.TLS = trusting(s) }), hits
}

// peer is the server's end of an HTTP/2 connection that does what a test says, frame by frame.
type peer struct {
	*http2.Framer
	conn  net.Conn
	nth   int // which connection it is, from 1
	tally *tally
}

// Names of what a peer counts. A POST is counted by its headers.
const (
	postHeaders = "headers"
	postData    = "bytes of bodies"
	postEnd     = "ends of bodies"
)

// serveFrames starts an HTTP/2 server that hands the frames of requests to f. It acknowledges settings and pings itself.
// f returns false to close the connection.
func serveFrames(t *testing.T, f func(p *peer, frame http2.Frame) bool, change ...func(*Config)) (*rig, *tally) {
	t.Helper()
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	t.Cleanup(certs.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certs.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	hits := new(tally)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for nth := 1; ; nth++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				p := &peer{Framer: http2.NewFramer(conn, conn), conn: conn, nth: nth, tally: hits}
				p.serve(f)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	change = append(change, func(c *Config) { c.TLS = trusting(certs) })
	return newRig(t, "https://"+l.Addr().String(), change...), hits
}

func (p *peer) serve(f func(*peer, http2.Frame) bool) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.conn, preface); err != nil || p.WriteSettings() != nil {
		return
	}
	for {
		frame, err := p.ReadFrame()
		if err != nil {
			return
		}
		switch fr := frame.(type) {
		case *http2.SettingsFrame:
			if !fr.IsAck() && p.WriteSettingsAck() != nil {
				return
			}
		case *http2.PingFrame:
			if !fr.IsAck() && p.WritePing(true, fr.Data) != nil {
				return
			}
		case *http2.HeadersFrame:
			p.tally.add(postHeaders)
		case *http2.DataFrame:
			for range fr.Data() {
				p.tally.add(postData)
			}
			if fr.StreamEnded() {
				p.tally.add(postEnd)
			}
		}
		if !f(p, frame) {
			return
		}
	}
}

// created answers the request of a stream.
func (p *peer) created(stream uint32) bool {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "201"})
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}) == nil &&
		p.WriteData(stream, true, []byte(`{"id":"c1"}`)) == nil
}

func ended(frame http2.Frame) bool {
	d, ok := frame.(*http2.DataFrame)
	return ok && d.StreamEnded()
}

func begun(frame http2.Frame) bool {
	_, ok := frame.(*http2.HeadersFrame)
	return ok
}
