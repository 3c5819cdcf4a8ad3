package flowtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

const (
	testOrg     = "1234567890ABCDEF12345678@AdobeOrg"
	testKey     = "f00dfeed0123456789abcdef01234567"
	testSandbox = "dev-eu"
	testToken   = "EXAMPLE.NOT.AJWT"
	testName    = "dbx-orders [req 7f3a9c51]"
)

// clock is a time that stands still until a test moves it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.UnixMilli(1762269996120)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bed is an emulator behind a real server, and a real client.
type bed struct {
	t     *testing.T
	em    *Emulator
	clock *clock
	url   string
	http  *http.Client
}

// newBed starts an emulator with a clock that stands still and a token for testOrg and testKey.
func newBed(t *testing.T, change ...func(*Config)) *bed {
	t.Helper()
	b := &bed{t: t, clock: newClock()}
	cfg := Config{Clock: b.clock.Now, Seed: 1}
	for _, c := range change {
		c(&cfg)
	}
	b.em = New(cfg)
	b.em.AddToken(provision.NewSensitive(testToken), testOrg, testKey)
	srv := httptest.NewServer(b.em)
	t.Cleanup(srv.Close)
	b.url = srv.URL
	b.http = srv.Client()
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

// reply is a response that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// try sends a request with good headers, of which header replaces some ("": removed).
func (b *bed) try(ctx context.Context, method, path, body string, header map[string]string) (reply, error) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	all := map[string]string{
		"Authorization": "Bearer " + testToken, "x-api-key": testKey,
		"x-gw-ims-org-id": testOrg, "x-sandbox-name": testSandbox, "Content-Type": "application/json",
	}
	maps.Copy(all, header)
	for key, value := range all {
		if value != "" {
			req.Header.Set(key, value)
		}
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, got}, err
}

func (b *bed) do(method, path, body string, header map[string]string) reply {
	b.t.Helper()
	r, err := b.try(b.t.Context(), method, path, body, header)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func (b *bed) get(path string) reply {
	b.t.Helper()
	return b.do(http.MethodGet, path, "", nil)
}

// want fails the test unless the status is as given.
func (r reply) want(t *testing.T, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status = %d, want %d; body: %s", r.status, status, r.body)
	}
	return r
}

// wantCode fails the test unless the body is a flow error with that code.
func (r reply) wantCode(t *testing.T, code string) {
	t.Helper()
	var body flowBody
	r.decode(t, &body)
	if want := "https://ns.adobe.com/aep/errors/FLOW-" + code; body.Type != want {
		t.Errorf("type = %q, want %q", body.Type, want)
	}
	if body.Report.RequestID == "" || body.Report.RequestID != r.header.Get("x-request-id") {
		t.Errorf("request-id = %q, header %q, want them equal and set", body.Report.RequestID, r.header.Get("x-request-id"))
	}
	if text := body.ErrorMessage; text == "" || strings.Contains(text, "%!") || strings.Contains(text, "%s") {
		t.Errorf("errorMessage = %q, want a text without leftovers", text)
	}
	if body.Status != r.status || body.Title == "" {
		t.Errorf("status and title = %d %q in the body, HTTP %d", body.Status, body.Title, r.status)
	}
}

func (r reply) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(r.body, into); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
}

// createJSON is a good body for POST /connections.
func createJSON(name, description string) string {
	b, _ := json.Marshal(map[string]any{
		"name": name, "description": description,
		"auth": map[string]any{"specName": DatabricksAuthSpec, "params": map[string]any{
			"domain": "https://adb-4455667788990011.3.azuredatabricks.net", "clusterId": "0712-091500-exmpl123",
			"accessToken": "EXAMPLE-NOT-A-TOKEN", "database": "orders_db",
		}},
		"connectionSpec": map[string]any{"id": DatabricksSpecID, "version": "1.0"},
	})
	return string(b)
}

// create makes a connection and returns its id and etag.
func (b *bed) create(name string) idEtag {
	b.t.Helper()
	var made idEtag
	b.do(http.MethodPost, "/connections", createJSON(name, "about "+name), nil).want(b.t, 201).decode(b.t, &made)
	return made
}

// query writes a list path with these properties, blanks as %20.
func query(properties ...string) string {
	q := url.Values{"property": properties}
	return "/connections?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

type listReply struct {
	Items []view `json:"items"`
	Links links  `json:"_links"`
}

// names lists path and returns the names it got.
func (b *bed) names(path string) []string {
	b.t.Helper()
	var l listReply
	b.get(path).want(b.t, 200).decode(b.t, &l)
	out := []string{}
	for _, v := range l.Items {
		out = append(out, v.Name)
	}
	return out
}

// wait waits for cond, as long as the test may take.
func (b *bed) wait(cond func(*Emulator) bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.em.Wait(ctx, cond); err != nil {
		b.t.Fatal(err)
	}
}

// leaksNothing fails the test if text holds one of the secrets that tests use.
func leaksNothing(t *testing.T, text []byte) {
	t.Helper()
	for _, secret := range []string{"EXAMPLE-NOT-A-TOKEN", testToken, "s3cret"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q is in %s", secret, text)
		}
	}
}
