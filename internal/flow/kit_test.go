package flow

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Secrets of the tests. None of them may ever show up in an error, a log line or a metric.
const (
	dbxToken     = "dapi-example/with+odd&chars%0123456789"
	staticBearer = "static-bearer-0123456789abcdef"
	imsSecret    = "p8e-ims-secret/0123456789+abcdef"
	imsToken     = "eyJhbGciOiJub25l.ims-token-one.signature"
)

var allSecrets = []string{dbxToken, staticBearer, imsSecret, imsToken}

// rig is a client, and all that it tells.
type rig struct {
	*Client
	registry *prometheus.Registry
	log      *lockedBuffer
	retries  *tally
}

// newRig returns a client for a Flow Service (and an IMS) at url, with short pauses.
func newRig(t *testing.T, url string, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{registry: prometheus.NewRegistry(), log: new(lockedBuffer), retries: new(tally)}
	cfg := Config{
		BaseURL: url + "/flow", IMSURL: url, RetryInitial: time.Microsecond, RetryMax: time.Millisecond, Timeout: 20 * time.Second,
		Log:        slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: r.registry,
		OnRetry: func(target provision.Target, cause provision.Cause) {
			r.retries.add(string(target) + " " + string(cause))
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Client = c
	t.Cleanup(c.Close)
	return r
}

// create calls Create with a minute's time and checks that nothing leaks.
func (r *rig) create(t *testing.T, as provision.Account) (provision.Connection, *provision.CallError) {
	t.Helper()
	conn, err := r.Create(t.Context(), as, newConnection(), time.Now().Add(time.Minute))
	r.checkNoLeak(t, err)
	return conn, callError(t, err)
}

// find calls Find and checks that nothing leaks.
func (r *rig) find(t *testing.T, as provision.Account, q provision.Query) ([]provision.Found, *provision.CallError) {
	t.Helper()
	found, err := r.Find(t.Context(), as, q)
	r.checkNoLeak(t, err)
	return found, callError(t, err)
}

func callError(t *testing.T, err error) *provision.CallError {
	t.Helper()
	if err == nil {
		return nil
	}
	var cerr *provision.CallError
	if !errors.As(err, &cerr) {
		t.Fatalf("error is %T, want *provision.CallError: %v", err, err)
	}
	return cerr
}

// checkNoLeak fails if a secret is in err, down to its last cause, in the log or in the metrics.
func (r *rig) checkNoLeak(t *testing.T, err error) {
	t.Helper()
	var said strings.Builder
	for e := err; e != nil; e = errors.Unwrap(e) {
		fmt.Fprintf(&said, "%v %+v %#v\n", e, e, e)
	}
	said.WriteString(r.log.String())
	families, gatherErr := r.registry.Gather()
	if gatherErr != nil {
		t.Error(gatherErr)
	}
	for _, f := range families {
		said.WriteString(f.String())
	}
	for _, secret := range allSecrets {
		if strings.Contains(said.String(), secret) {
			t.Errorf("the secret %q leaks", secret)
		}
	}
}

func staticAccount() provision.Account {
	return provision.Account{Tenant: "acme", Sandbox: "dev-eu", Credentials: provision.Credentials{
		OrgID: "ORG@AdobeOrg", AccessToken: provision.NewSensitive(staticBearer), APIKey: "api-key",
	}}
}

func imsAccount() provision.Account {
	return provision.Account{Tenant: "acme", Sandbox: "dev-eu", Credentials: provision.Credentials{
		OrgID: "ORG@AdobeOrg", ClientID: "client-id", ClientSecret: provision.NewSensitive(imsSecret), Scopes: "openid, session,AdobeID",
	}}
}

func newConnection() provision.NewConnection {
	return provision.NewConnection{
		Name: "dbx-orders", Description: "orders [flow-worker 00112233445566778899aabbccddeeff]",
		SpecName:       "Access Token Authentication",
		Params:         provision.Params{Domain: "https://adb-1.3.azuredatabricks.net", ClusterID: "0712-091500-x", Database: "orders_db"},
		AccessToken:    provision.NewSensitive(dbxToken),
		ConnectionSpec: provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"},
	}
}

// serve starts a server that counts its requests as "METHOD /path".
func serve(t *testing.T, h http.HandlerFunc) (string, *tally) {
	t.Helper()
	hits := new(tally)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.add(r.Method + " " + r.URL.Path)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, hits
}

// serveRaw starts a server that gives every connection to f, once its request was read to the end.
func serveRaw(t *testing.T, f func(net.Conn)) (string, *tally) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hits := new(tally)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				readRequest(conn, hits)
				f(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String(), hits
}

func readRequest(conn net.Conn, hits *tally) {
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !bytes.HasSuffix(got.Bytes(), []byte("}")) {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		got.Write(buf[:n])
	}
	hits.add(strings.Join(strings.Fields(got.String())[:2], " "))
}

// tally counts named things.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name]++
}

func (c *tally) get(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}

func (c *tally) want(t *testing.T, name string, n int) {
	t.Helper()
	if got := c.get(name); got != n {
		t.Errorf("%s: %d times, want %d", name, got, n)
	}
}

const (
	postCall = "POST /flow/connections"
	listCall = "GET /flow/connections"
	imsCall  = "POST /ims/token/v3"
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// never returns a dial that hangs, but not beyond the test: net/http does not end it with its request.
func never(t *testing.T) dialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.Context().Done():
			return nil, t.Context().Err()
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
