//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/natstest"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// Variables that set up the roles.
const (
	storeVariable   = "BENCH_STORE"       // nats: the folder of its streams
	tenantsVariable = "BENCH_TENANTS"     // vault: how many tenants have secrets
	latencyVariable = "BENCH_LATENCY"     // upstream: from a POST's arrival to its answer
	certVariable    = "BENCH_CERTIFICATE" // upstream: the file to write its certificate to; empty means plain HTTP/1.1
)

func serveNATS(ctx context.Context, ready func(...string)) error {
	s, err := natstest.Start(ctx, natstest.Options{StoreDir: os.Getenv(storeVariable)})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	ready(s.ClientURL())
	<-ctx.Done()
	return nil
}

// tenantName returns the name of a tenant by its number.
func tenantName(i int) string { return fmt.Sprintf("t%d", i) }

func serveVault(ctx context.Context, ready func(...string)) error {
	n, err := strconv.Atoi(os.Getenv(tenantsVariable))
	if err != nil {
		return err
	}
	v := vaulttest.New(vaulttest.Config{})
	for i := range n {
		t := tenantName(i)
		v.Put("flow/tenants/"+t+"/adobe", map[string]any{"orgId": t + "@AdobeOrg", "clientId": t + "-client", "clientSecret": "bench-client-secret"})
		v.Put("flow/tenants/"+t+"/databricks/main", map[string]any{"accessToken": "dapi-bench-token"})
	}
	at := httptest.NewServer(v)
	ready(at.URL, v.NewToken(vaulttest.Role{}))
	<-ctx.Done()
	return nil
}

// traffic is what the upstream has seen.
type traffic struct {
	Posts, InFlight, MaxInFlight int
	Duplicates                   int           // POSTs with a mark that was there before
	Others                       int           // calls that a smooth run has no need for, such as look-ups
	Busy                         time.Duration // the time in flight of all POSTs, summed
	Gap                          time.Duration // the longest between the arrivals of two POSTs
	First, Last, Now             time.Time     // the first arrival, the last answer, the time of this very look
}

// upstream stands in for the Flow Service and IMS where time is measured: it checks nothing and is as quick as
// net/http allows, which internal/flow/flowtest, made to be faithful, is not.
type upstream struct {
	latency time.Duration

	mu      sync.Mutex
	seen    traffic
	changed time.Time // the last change of InFlight
	arrived time.Time // the last POST
	marks   map[string]struct{}
	waiting []waiter
}

// waiter waits for a number of POSTs.
type waiter struct {
	posts int
	there chan struct{}
}

func serveUpstream(ctx context.Context, ready func(...string)) error {
	latency, err := time.ParseDuration(os.Getenv(latencyVariable))
	if err != nil {
		return err
	}
	at := httptest.NewUnstartedServer(&upstream{latency: latency, marks: map[string]struct{}{}})
	cert := os.Getenv(certVariable)
	if cert == "" {
		at.Start()
	} else {
		at.EnableHTTP2 = true
		at.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 128} // what common proxies allow
		at.StartTLS()
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: at.Certificate().Raw})
		if err := os.WriteFile(cert, block, 0o600); err != nil {
			return err
		}
	}
	ready(at.URL)
	<-ctx.Done()
	return nil
}

const (
	flowPath  = "/data/foundation/flowservice"
	tokenPath = "/ims/token/v3"
	statsPath = "/stats"
	spansPath = "/v1/traces"
)

// ServeHTTP implements http.Handler.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == flowPath+"/connections" && r.Method == http.MethodPost:
		u.create(w, r)
	case r.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == tokenPath:
		answer(w, http.StatusOK, `{"access_token":"bench-bearer-token","token_type":"bearer","expires_in":86399}`)
	case r.URL.Path == spansPath:
		_, _ = io.Copy(io.Discard, r.Body)
	case r.URL.Path == statsPath:
		u.stats(w, r)
	default:
		u.mu.Lock()
		u.seen.Others++
		u.mu.Unlock()
		answer(w, http.StatusServiceUnavailable, `{}`)
	}
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // a caller who has left misses nothing
}

func (u *upstream) create(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	n := u.arrive(markOf(body))
	if u.latency > 0 {
		timer := time.NewTimer(u.latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	u.leave()
	answer(w, http.StatusCreated, fmt.Sprintf(`{"id":"00000000-0000-4000-8000-%012x","etag":"\"%08x-0000-0200-0000-690a1b2c0000\""}`, n, n))
}

// markOf returns the mark in a connection's description, empty if it has none.
func markOf(body []byte) string {
	_, rest, _ := bytes.Cut(body, []byte("[flow-worker "))
	mark, _, ok := bytes.Cut(rest[:min(len(rest), 33)], []byte("]"))
	if !ok {
		return ""
	}
	return string(mark)
}

// arrive notes a POST and returns its number.
func (u *upstream) arrive(mark string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.tally(1)
	s := &u.seen
	if s.Posts++; s.Posts == 1 {
		s.First = now
	} else {
		s.Gap = max(s.Gap, now.Sub(u.arrived))
	}
	u.arrived = now
	if mark != "" {
		if _, again := u.marks[mark]; again {
			s.Duplicates++
		}
		u.marks[mark] = struct{}{}
	}
	for i := 0; i < len(u.waiting); i++ {
		if w := u.waiting[i]; s.Posts >= w.posts {
			close(w.there)
			u.waiting = append(u.waiting[:i], u.waiting[i+1:]...)
			i--
		}
	}
	return s.Posts
}

func (u *upstream) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen.Last = u.tally(-1)
}

// tally counts the time in flight until now, and changes how many POSTs are.
func (u *upstream) tally(change int) time.Time {
	now := time.Now()
	if !u.changed.IsZero() {
		u.seen.Busy += time.Duration(u.seen.InFlight) * now.Sub(u.changed)
	}
	u.changed = now
	u.seen.InFlight += change
	u.seen.MaxInFlight = max(u.seen.MaxInFlight, u.seen.InFlight)
	return now
}

// stats answers what was seen so far, with ?posts=N as soon as there were N POSTs.
func (u *upstream) stats(w http.ResponseWriter, r *http.Request) {
	posts, _ := strconv.Atoi(r.URL.Query().Get("posts"))
	u.mu.Lock()
	if u.seen.Posts < posts {
		there := make(chan struct{})
		u.waiting = append(u.waiting, waiter{posts, there})
		u.mu.Unlock()
		select {
		case <-there:
		case <-r.Context().Done():
		}
		u.mu.Lock()
	}
	u.seen.Now = u.tally(0)
	text, err := json.Marshal(u.seen)
	u.mu.Unlock()
	if err != nil {
		panic(err) // numbers and times only
	}
	answer(w, http.StatusOK, strings.TrimSpace(string(text)))
}
