package deploy

import (
	"bufio"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// tap stands between clients and a server and notes what the clients publish and subscribe to, and what
// the server refuses. Its methods are safe for concurrent use.
type tap struct {
	at, server string

	mu      sync.Mutex
	used    map[probe]int // guarded by mu
	refused []string      // guarded by mu
}

// newTap listens until the test ends, for the server at an address. It speaks no TLS.
func newTap(t *testing.T, server string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{at: l.Addr().String(), server: strings.TrimPrefix(server, "nats://"), used: map[probe]int{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return p
}

func (p *tap) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client); _ = server.Close() })
	p.copy(client, server)
	_ = client.Close()
	both.Wait()
}

// copy passes on one direction, line by line and payload by payload, until it ends.
func (p *tap) copy(to io.Writer, from io.Reader) {
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
	for {
		line, err := in.ReadString('\n')
		if err == nil {
			_, err = out.WriteString(line)
		}
		if err == nil {
			_, err = io.CopyN(out, in, p.note(strings.Fields(line)))
		}
		if err == nil && in.Buffered() == 0 {
			err = out.Flush()
		}
		if err != nil {
			return
		}
	}
}

// note keeps what a protocol line says, and returns how many bytes of payload follow it.
func (p *tap) note(fields []string) int64 {
	if len(fields) < 2 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch strings.ToUpper(fields[0]) {
	case "PUB", "HPUB":
		p.used[probe{"pub", fields[1]}]++
	case "SUB":
		p.used[probe{"sub", fields[1]}]++
		return 0
	case "-ERR":
		p.refused = append(p.refused, strings.Join(fields[1:], " "))
		return 0
	case "MSG", "HMSG":
	default:
		return 0
	}
	size, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		return 0
	}
	return size + int64(len("\r\n"))
}

func (p *tap) url(user string) string { return "nats://" + user + ":pw-" + user + "@" + p.at }

// uses returns what was published and subscribed to, sorted.
func (p *tap) uses() []probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.used), probe.compare)
}

// refusals returns what the server refused, in its words.
func (p *tap) refusals() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}
