package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/flow"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// badServers are what an HTTP server may say to whoever asked, and so keep it for ever, or fill its memory.
var badServers = map[string]func(io.Writer){ // :: name → it writes until that fails
	"says nothing":             func(io.Writer) {},
	"hangs amid the status":    says("HTTP/1.1 20"),
	"hangs amid the header":    says("HTTP/1.1 200 OK\r\nContent-"),
	"hangs before the body":    says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
	"hangs amid the body":      says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"),
	"speaks slowly":            slowly("HTTP/1.1 200 OK\r\nX: ", "y"),
	"sends a body slowly":      slowly("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", " "),
	"header without end":       endlessly("HTTP/1.1 200 OK\r\nX: ", "y"),
	"headers without end":      endlessly("HTTP/1.1 200 OK\r\n", "X: y\r\n"),
	"continues without end":    endlessly("", "HTTP/1.1 100 Continue\r\n\r\n"),
	"hints without end":        endlessly("", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"),
	"body without end":         endlessly("HTTP/1.1 200 OK\r\n\r\n", "[{"),
	"blanks without end":       endlessly("HTTP/1.1 200 OK\r\n\r\n", " "),
	"chunks without end":       endlessly("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "40\r\n"+strings.Repeat("{", 64)+"\r\n"),
	"trailers without end":     endlessly("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n", "X: y\r\n"),
	"error without end":        endlessly("HTTP/1.1 500 Oops\r\n\r\n", `{"title":"`),
	"deep JSON":                says("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("[", 1_000_000)),
	"deep JSON of objects":     says("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat(`{"a":`, 200_000)),
	"becomes something else":   says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
	"a length beyond counting": says("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
	"a length below nothing":   says("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
	"speaks no HTTP":           says("\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"),
}

func says(text string) func(io.Writer) {
	return func(w io.Writer) { _, _ = io.WriteString(w, text) }
}

func endlessly(begin, again string) func(io.Writer) {
	again = strings.Repeat(again, 4096/len(again))
	return func(w io.Writer) {
		for _, err := io.WriteString(w, begin); err == nil; {
			_, err = io.WriteString(w, again)
		}
	}
}

func slowly(begin, again string) func(io.Writer) {
	return func(w io.Writer) {
		for _, err := io.WriteString(w, begin); err == nil; {
			<-time.After(time.Second)
			_, err = io.WriteString(w, again)
		}
	}
}

// badServer answers each connection's first request badly, and counts what is taken from it.
type badServer struct {
	answer func(io.Writer)
	taken  atomic.Int64
	all    sync.WaitGroup // of connections
}

func (b *badServer) serve(conn net.Conn) {
	defer conn.Close()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	if b.taken.Load() > 1<<20 {
		return // that it takes so much again and again need not be seen
	}
	b.answer(struct{ io.Writer }{b.counted(conn)})
	_, _ = io.Copy(io.Discard, conn) // until the client goes
}

func (b *badServer) counted(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		n, err := w.Write(p)
		b.taken.Add(int64(n))
		return n, err
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Whatever the Flow Service or IMS does, each try ends with its time, and takes no more than its limit.
func TestFlowClientIsBounded(t *testing.T) {
	t.Parallel()
	for what, call := range flowCalls {
		for name, answer := range badServers {
			t.Run(what+": "+name, func(t *testing.T) { boundedCall(t, call, answer) })
		}
	}
}

// flowCalls are what the worker asks of the Flow Service and IMS.
var flowCalls = map[string]func(context.Context, *flow.Client) error{
	"create": func(ctx context.Context, c *flow.Client) error {
		conn := provision.NewConnection{Name: "n", AccessToken: provision.NewSensitive("t")}
		_, err := c.Create(ctx, account(provision.Credentials{AccessToken: provision.NewSensitive("t"), APIKey: "k"}), conn, time.Now().Add(time.Hour))
		return err
	},
	"find": func(ctx context.Context, c *flow.Client) error {
		_, err := c.Find(ctx, account(provision.Credentials{AccessToken: provision.NewSensitive("t"), APIKey: "k"}), provision.Query{Names: []string{"n"}})
		return err
	},
	"authorize": func(ctx context.Context, c *flow.Client) error {
		return c.Authorize(ctx, account(provision.Credentials{ClientID: "c", ClientSecret: provision.NewSensitive("s")}))
	},
}

func account(c provision.Credentials) provision.Account {
	c.OrgID = "O@AdobeOrg"
	return provision.Account{Tenant: "acme", Sandbox: "dev", Credentials: c}
}

func boundedCall(t *testing.T, call func(context.Context, *flow.Client) error, answer func(io.Writer)) {
	const timeout, tries, most = 5 * time.Second, 4, 16 << 20
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := &badServer{answer: answer}
		c, err := flow.New(flow.Config{BaseURL: "http://127.0.0.1:1", IMSURL: "http://127.0.0.1:1", Timeout: timeout, DialContext: bad.dial})
		if err != nil {
			t.Fatal(err)
		}
		defer bad.all.Wait()
		defer c.Close()
		start := time.Now()
		if err := call(t.Context(), c); err == nil {
			t.Error("it was taken for an answer")
		}
		if took := time.Since(start); took > tries*timeout+20*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := bad.taken.Load(); n > most {
			t.Errorf("%d bytes were taken", n)
		}
	})
}

func (b *badServer) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	b.all.Go(func() { b.serve(theirs) })
	return ours, nil
}

// The same for Vault. Its client can't be given other time than the real one, so it gets little.
func TestVaultClientIsBounded(t *testing.T) {
	t.Setenv("VAULT_CLIENT_TIMEOUT", "200ms")
	for name, answer := range badServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			bad := &badServer{answer: answer}
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					go bad.serve(conn)
				}
			}()
			defer ln.Close()
			c, err := vault.New(vault.Config{Address: "http://" + ln.Addr().String(), Token: provision.NewSensitive("t")})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Health(t.Context()); err == nil {
				t.Error("it was taken for an answer")
			}
			if n := bad.taken.Load(); n > 40<<20 { // 10 MiB of headers, and what the sockets' buffers hold
				t.Errorf("%d bytes were taken", n)
			}
		})
	}
}

// The stand-ins of demo and emulator read no more than they need either, and nothing makes them panic.
func TestStandInsAreBounded(t *testing.T) {
	t.Parallel()
	const flowAt, vaultAt = "/data/foundation/flowservice/connections", "/v1/secret/data/flow/tenants/acme/x"
	for name, body := range map[string]string{
		"10 MB":        strings.Repeat(" ", 10<<20),
		"10 MB string": `{"name":"` + strings.Repeat("a", 10<<20) + `"}`,
		"deep":         strings.Repeat("[", 200_000),
		"deep objects": strings.Repeat(`{"data":`, 25_000),
		"long number":  `{"name":` + strings.Repeat("9", 200_000) + `}`,
		"cut off":      `{"name":"x`,
		"no UTF-8":     "{\"name\":\"\xff\xfe\"}",
	} {
		for _, target := range []string{flowAt, "/_emulator/faults", "/ims/token/v3", vaultAt} {
			t.Run(name+" "+target, func(t *testing.T) {
				t.Parallel()
				server := vaulttest.New(vaulttest.Config{})
				var h http.Handler = flowtest.New(flowtest.Config{AllowAnyToken: true})
				if target == vaultAt {
					h = server
				}
				read := &counter{Reader: strings.NewReader(body)}
				r := httptest.NewRequest(http.MethodPost, target, read)
				for _, header := range []string{"Authorization:Bearer t", "X-Api-Key:k", "X-Gw-Ims-Org-Id:o", "X-Sandbox-Name:prod", "Content-Type:application/json", "X-Vault-Token:" + server.Token()} {
					key, value, _ := strings.Cut(header, ":")
					r.Header.Set(key, value)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code < 400 || w.Code > 500 { // Vault says 500 to what is no JSON
					t.Errorf("%d %.200s", w.Code, w.Body)
				}
				if read.n > 2<<20 || w.Body.Len() > 64<<10 {
					t.Errorf("%d bytes were read, %d written", read.n, w.Body.Len())
				}
			})
		}
	}
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}
