package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestPageEscapes(t *testing.T) {
	t.Parallel()
	hostile := `</td></style><script>alert("1")</script><img src=x onerror='x'>` + "`{{.Version}}"
	health := &Health{Paused: func() bool { return true }}
	health.Add(hostile, func(context.Context) error { return errors.New(hostile) })
	s := &Status{Version: hostile, Since: time.Now(), Health: health, Sources: Sources{
		Queue:    func(context.Context) (Queue, error) { return Queue{}, errors.New(hostile) },
		Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetFlow, Scope: hostile, State: hostile}} },
	}}
	s.Started(provision.Key{Tenant: hostile, Source: hostile, ID: hostile}, 1).Reached(provision.State(hostile))
	s.Concluded(failed(hostile, hostile), false)
	ok := created(hostile)
	ok.Connection.ID = hostile
	s.Concluded(ok, false)
	body := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/").Body.String()
	for _, bad := range []string{"<script>", "<img", "</td></style>"} {
		if strings.Contains(body, bad) {
			t.Errorf("page holds %s:\n%s", bad, body)
		}
	}
	if n := strings.Count(html.UnescapeString(body), hostile); n < 12 {
		t.Errorf("only %d hostile texts are shown", n)
	}
}

func TestPageShows(t *testing.T) {
	t.Parallel()
	health := &Health{}
	health.Add("vault", func(context.Context) error { return errors.New("sealed") })
	s := &Status{Version: "1.2.3", Since: time.Now(), Health: health, Sources: Sources{
		Queue:    func(context.Context) (Queue, error) { return Queue{Pending: 17, OldestSeconds: 90}, nil },
		Breakers: func() []Breaker { return []Breaker{{Target: provision.TargetVault, State: "open"}} },
	}}
	s.Started(key("in-work"), 1).Reached(provision.StateUnknown)
	s.Concluded(failed("r-9", "HTTP 400: bad spec"), false)
	w := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/")
	body := w.Body.String()
	for _, want := range []string{"1.2.3", "Not ready", "NOT READY: vault: sealed", ">17<", "1 min 30 s", "Vault", "circuit open", "in-work", "looked up",
		`http-equiv="refresh"`} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q:\n%s", want, body)
		}
	}
	if strings.Contains(body, "PAUSED") {
		t.Error("page says paused")
	}
	health.Paused = func() bool { return true }
	if body := ask(NewStatusHandler(s, StatusOptions{}), "GET", "/").Body.String(); strings.Count(body, "PAUSED") < 2 {
		t.Error("page does not say loudly that the intake is paused")
	}
	for name, want := range map[string]string{"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": pagePolicy,
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Whatever is Sensitive stays so on the page too, even inside of an error.
func TestPageShowsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "dapi0123456789"
	health := &Health{}
	health.Add("vault", func(context.Context) error {
		return &provision.SecretError{Problem: provision.SecretDenied, Err: errors.New("token " + provision.NewSensitive(secret).String())}
	})
	s := &Status{Health: health}
	h := NewStatusHandler(s, StatusOptions{Pprof: true})
	for _, target := range []string{"/", "/status.json"} {
		body := ask(h, "GET", target).Body.String()
		if strings.Contains(body, secret) || !strings.Contains(body, provision.Redacted) {
			t.Errorf("%s: %s", target, body)
		}
	}
}

func TestStatusHost(t *testing.T) {
	t.Parallel()
	h := NewStatusHandler(&Status{}, StatusOptions{Pprof: true})
	for host, want := range map[string]int{
		"127.0.0.1:8081": 200, "127.0.0.1": 200, "localhost:8081": 200, "LOCALHOST": 200, "[::1]:8081": 200, "[::1]": 200,
		"10.1.2.3:8081": 200, "worker.internal:80": 403,
		"evil.example": 403, "evil.example:8081": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "": 403,
	} {
		for _, target := range []string{"/", "/status.json", "/debug/pprof/"} {
			w := ask(h, "GET", target, "Host", host)
			if w.Code != want {
				t.Errorf("%s as %q: %d, want %d", target, host, w.Code, want)
			}
			if w.Header().Get("Content-Security-Policy") == "" {
				t.Errorf("%s as %q: no policy", target, host)
			}
		}
	}
}

func TestPprof(t *testing.T) {
	t.Parallel()
	on, off := NewStatusHandler(&Status{}, StatusOptions{Pprof: true}), NewStatusHandler(&Status{}, StatusOptions{})
	for target, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/heap?debug=1": 200, "/debug/pprof/cmdline": 404, "/other": 404} {
		if w := ask(on, "GET", target); w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
		if w := ask(off, "GET", target); w.Code != 404 {
			t.Errorf("%s without pprof: %d", target, w.Code)
		}
	}
}

// library returns a handler over these records.
func library(recs ...provision.Record) (http.Handler, *memLedger) {
	book := &memLedger{}
	for _, r := range recs {
		book.put(r)
	}
	return NewStatusHandler(&Status{Since: time.Now(), Health: &Health{}, Sources: Sources{Ledger: book}}, StatusOptions{}), book
}

func of(tenant, source, id string) provision.Record {
	return provision.Record{Key: provision.Key{Tenant: tenant, Source: source, ID: id}, State: provision.StateCreated, Name: "name of " + tenant}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	h, _ := library(of("acme", "/a", "one"), of("acme", "/a", "two"), of("globex", "/b", "two"), of("acme", "/a", " blank "), of("acme", "/a", "a/b?c#d&e=f%20"), of("acme", "/a", ".."))
	for query, c := range map[string]struct {
		code     int
		location string
		shows    []string
	}{
		"one":            {303, "/requests/acme.=2Fa.one", nil},
		"  one\t":        {303, "/requests/acme.=2Fa.one", nil},
		" blank ":        {303, "/requests/acme.=2Fa.=20blank=20", nil},
		"a/b?c#d&e=f%20": {303, "/requests/acme.=2Fa.a=2Fb=3Fc=23d=26e=3Df=2520", nil},
		"..":             {303, "/requests/acme.=2Fa.=2E=2E", nil},
		"acme.=2Fa.one":  {303, "/requests/acme.=2Fa.one", nil}, // the ledger's key
		"":               {303, "/", nil},
		" ":              {303, "/", nil},
		"two":            {200, "", []string{"2 requests have this id", "name of acme from /a", "name of globex from /b"}},
		"on":             {404, "", []string{"No request has exactly this id", "/requests/acme.=2Fa.one"}},
		"NAME OF GLOBEX": {404, "", []string{"/requests/globex.=2Fb.two"}},
		"nothing":        {404, "", []string{"No request has exactly this id"}},
	} {
		w := ask(h, "GET", "/requests?id="+url.QueryEscape(query))
		if w.Code != c.code || w.Header().Get("Location") != c.location {
			t.Errorf("%q: %d to %q, want %d to %q", query, w.Code, w.Header().Get("Location"), c.code, c.location)
		}
		body := html.UnescapeString(w.Body.String())
		for _, want := range c.shows {
			if !strings.Contains(body, want) {
				t.Errorf("%q lacks %q:\n%s", query, want, body)
			}
		}
		if c.location != "" && c.location != "/" {
			if w := ask(h, "GET", c.location); w.Code != 200 {
				t.Errorf("%q leads to %d", query, w.Code)
			}
		}
	}
}

func TestSearchInTrouble(t *testing.T) {
	t.Parallel()
	h, book := library(of("acme", "/a", "one"))
	book.err = errors.New("no responders")
	for _, target := range []string{"/requests?id=one", "/requests/acme.=2Fa.one", "/requests/acme.=2Fa.one.json", "/requests/acme.=2Fa.one/events"} {
		if w := ask(h, "GET", target); w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), "no responders") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if w := ask(h, "GET", "/"); w.Code != 200 || !strings.Contains(html.UnescapeString(w.Body.String()), "The ledger can't be read: no responders") {
		t.Errorf("the first page: %d", w.Code)
	}
	none := NewStatusHandler(&Status{}, StatusOptions{})
	for target, code := range map[string]int{"/": 200, "/requests?id=one": 502, "/requests/acme.=2Fa.one": 404} {
		if w := ask(none, "GET", target); w.Code != code || !strings.Contains(w.Body.String(), "knows no ledger") {
			t.Errorf("without a ledger, %s: %d", target, w.Code)
		}
	}
}

// Only a few searches run at once; who comes too late is told, and does not wait for ever.
func TestSearchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPages(&Status{Sources: Sources{Ledger: &memLedger{}}})
		for range maxSearches {
			p.searches <- struct{}{}
		}
		start := time.Now()
		if _, trouble := p.find(t.Context(), "x"); !strings.Contains(trouble, "too many") || time.Since(start) != lookTimeout {
			t.Errorf("after %v: %q", time.Since(start), trouble)
		}
		<-p.searches
		if _, trouble := p.find(t.Context(), "x"); trouble != "" || len(p.searches) != maxSearches-1 {
			t.Errorf("got %q, %d places are taken", trouble, len(p.searches))
		}
	})
}

func TestSearchFindsOnlySoMany(t *testing.T) {
	t.Parallel()
	book := &memLedger{}
	for i := range 3 * maxFound {
		book.all = append(book.all, Written{of("acme", "/"+strings.Repeat("x", i), "same"), uint64(i + 1)})
	}
	p := newPages(&Status{Sources: Sources{Ledger: book}})
	if found, trouble := p.find(t.Context(), "same"); len(found) != maxFound || trouble != "" {
		t.Errorf("got %d, %s", len(found), trouble)
	}
	requests, _ := p.requests(t.Context())
	if rows := near(requests, "sam", noon); len(rows) != min(maxFound, maxPerState) {
		t.Errorf("got %d that are like it", len(rows))
	}
}

// The choice of states and tenants is a link's, so it needs no script and can be kept.
func TestListing(t *testing.T) {
	t.Parallel()
	requests := []Request{{Key: key("1"), State: provision.StateWaiting}, {Key: key("2"), State: provision.StateFailed, Reason: provision.ReasonExpired, Hindrance: "late"},
		{Key: provision.Key{Tenant: "globex", ID: "3"}, State: provision.StateFailed}, {Key: key("4"), State: "verified"}}
	for query, want := range map[string][]string{
		"": {"1", "2", "3", "4"}, "state=failed": {"2", "3"}, "state=open": {"1"}, "state=waiting&tenant=acme": {"1"}, "state=failed&tenant=globex": {"3"},
		"state=created": nil,
	} {
		q, _ := url.ParseQuery(query)
		c, trouble := choiceOf(q)
		if trouble != "" {
			t.Errorf("%s: %s", query, trouble)
		}
		rows, note := listed(requests, c, noon)
		var got []string
		for _, r := range rows {
			got = append(got, r.ID)
		}
		if !slices.Equal(got, want) || (note == "") != (len(want) > 0) {
			t.Errorf("%s: %v, want %v; %q", query, got, want, note)
		}
	}
	links := filters(requests, choice{"failed", "acme"})
	if links[0].URL != "/?tenant=acme" || links[0].Count != "3" || links[4].Current != "true" || links[4].Count != "1" || links[4].URL != "/?state=failed&tenant=acme" || links[0].Current != "" {
		t.Errorf("got %+v", links)
	}
	held := Request{Key: key("5"), State: provision.StateClaimed, Hindrance: "Vault is sealed"}
	if rows, _ := listed([]Request{held, {State: provision.StateClaimed}}, choice{"waiting", ""}, noon); len(rows) != 1 || rows[0].State != "held up" || rows[0].Tone != "odd" {
		t.Errorf("held up: %+v", rows)
	}
	many := make([]Request, 80)
	if rows, note := listed(many, choice{}, noon); len(rows) != maxListed || !strings.Contains(note, "latest 50") {
		t.Errorf("%d rows, %q", len(rows), note)
	}
}

func TestStoryJSON(t *testing.T) {
	t.Parallel()
	rec := of("acme", "/a", "one")
	rec.State, rec.Final = provision.StateFailed, &provision.FinalResult{Result: provision.Result{Error: provision.Fail(provision.ReasonFlowDenied, "<no>")}}
	rec.Attempts = []provision.Attempt{{At: noon, Step: "post", Result: "denied", Elapsed: 1.5, Owner: "w", Detail: "HTTP 403"}}
	h, _ := library(rec)
	w := ask(h, "GET", "/requests/acme.=2Fa.one.json")
	var got Story
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v", w.Code, err)
	}
	if got.Record.Key != rec.Key || got.Outcome != "failed flow_denied" || got.Remedy == "" || !strings.HasPrefix(got.Commands[0].Line, "worker retry ") ||
		got.Timeline[0].Seconds != 1.5 || got.Timeline[0].Tone != "bad" || got.Next.Text == "" {
		t.Errorf("got %+v", got)
	}
	for target, code := range map[string]int{"/requests/acme.=2Fa.none.json": 404, "/requests/nonsense.json": 404, "/requests/acme.=2fa.one": 404, "/requests/acme.=2Fa.one/events/": 404} {
		if w := ask(h, "GET", target); w.Code != code {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		for _, target := range []string{"/", "/requests", "/requests/acme.=2Fa.one", "/events", "/status.json", "/app.js"} {
			if w := ask(h, method, target); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		}
	}
}

// An id that reads like a part of an address, or like another request's key, hides no story.
func TestIDsThatLookLikeAddresses(t *testing.T) {
	t.Parallel()
	ids := []string{"json", "events", "x.json", "requests", "status.json", "..", "acme.=2Fa.json"}
	var recs []provision.Record
	for _, id := range ids {
		recs = append(recs, of("acme", "/a", id))
	}
	h, _ := library(append(recs, of("acme", "json", "json"))...)
	for _, rec := range recs {
		at := storyURL(rec.Key)
		if w := ask(h, "GET", at); w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Body.String(), rec.Key.String()) {
			t.Errorf("%s: %d %s", at, w.Code, w.Header().Get("Content-Type"))
		}
		var got Story
		if w := ask(h, "GET", at+".json"); json.Unmarshal(w.Body.Bytes(), &got) != nil || got.Record.Key != rec.Key {
			t.Errorf("%s.json: %d, of %+v", at, w.Code, got.Record.Key)
		}
		if w := ask(h, "GET", "/requests?id="+url.QueryEscape(rec.Key.ID)); rec.Key.ID != "json" && rec.Key.ID != "acme.=2Fa.json" && w.Header().Get("Location") != at {
			t.Errorf("a search for %q leads to %q", rec.Key.ID, w.Header().Get("Location"))
		}
	}
	if w := ask(h, "GET", "/requests?id=acme.=2Fa.json"); w.Code != 200 || !strings.Contains(w.Body.String(), "2 requests have this id") {
		t.Errorf("an id that is the key of another request: %d", w.Code)
	}
	if w := ask(h, "GET", "/requests/json"); w.Code != 404 {
		t.Errorf("an id alone: %d", w.Code)
	}
}

// wary is a ledger that remembers what it was asked for.
type wary struct {
	memLedger
	ids  []string
	keys []provision.Key
}

func (w *wary) ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error] {
	w.ids = append(w.ids, id)
	return w.memLedger.ByID(ctx, id)
}

func (w *wary) Record(ctx context.Context, key provision.Key) (provision.Record, error) {
	w.keys = append(w.keys, key)
	return w.memLedger.Record(ctx, key)
}

// What is too long for an id is nobody's, and the ledger is not asked.
func TestSearchForWhatIsTooLong(t *testing.T) {
	t.Parallel()
	book := &wary{}
	h := NewStatusHandler(&Status{Health: &Health{}, Sources: Sources{Ledger: book}}, StatusOptions{})
	for query, longest := range map[string]bool{
		strings.Repeat("a", 256): true, strings.Repeat("é", 128): true, " " + strings.Repeat("a", 256) + "\n": true,
		strings.Repeat("a", 257): false, strings.Repeat("é", 128) + "x": false, strings.Repeat("接", 460): false, strings.Repeat("a", 4096): false,
		strings.Repeat("a", 10_000): false, strings.Repeat("接", 10_000): false, "acme." + strings.Repeat("a", 10_000) + ".b": false, strings.Repeat("\xff", 10_000): false,
	} {
		book.ids = nil
		w := ask(h, "GET", "/requests?id="+url.QueryEscape(query))
		body := html.UnescapeString(w.Body.String())
		if w.Code != http.StatusNotFound || !strings.Contains(body, "No request has exactly this id") || len(body) > 5000 {
			t.Errorf("%.20q, %d bytes: %d, %d bytes", query, len(query), w.Code, len(body))
		}
		asked := len(book.ids) == 1 && book.ids[0] == strings.TrimSpace(query)
		if asked != longest || !longest && book.ids != nil || longest == strings.Contains(body, "An id has at most 256 bytes, and this text has ") {
			t.Errorf("%.20q, %d bytes: the ledger was asked for %.50q:\n%s", query, len(query), book.ids, body)
		}
	}
	if book.keys != nil {
		t.Errorf("the ledger was asked for %v", book.keys)
	}
}

// A ledger key is longer than the id in it, so the form takes the longest of them.
func TestSearchTakesTheLongestKey(t *testing.T) {
	t.Parallel()
	long := of(strings.Repeat("t", 63), strings.Repeat("/", 256), strings.Repeat("接", 85)+"x")
	h, _ := library(long)
	if w := ask(h, "GET", "/requests?id="+long.Key.String()); w.Code != http.StatusSeeOther || w.Header().Get("Location") != storyURL(long.Key) {
		t.Errorf("%d to %.50s", w.Code, w.Header().Get("Location"))
	}
	longest := provision.Key{Tenant: long.Key.Tenant, Source: long.Key.Source, ID: strings.Repeat(".", 256)}.String()
	if body := ask(h, "GET", "/").Body.String(); !strings.Contains(body, fmt.Sprintf(`maxlength="%d"`, len(longest))) {
		t.Errorf("the form does not take %d characters", len(longest))
	}
}

// An address that no request can have is not there, and no error of the ledger's.
func TestStoryOfNoRequest(t *testing.T) {
	t.Parallel()
	book := &wary{}
	h := NewStatusHandler(&Status{Health: &Health{}, Sources: Sources{Ledger: book}}, StatusOptions{})
	for _, name := range []string{"acme..", "acme..b", "acme.a.", "acme." + strings.Repeat("a", 257) + ".b", "acme.a." + strings.Repeat("=E6=8E=A5", 100), strings.Repeat("a", 10_000)} {
		for _, target := range []string{"/requests/" + name, "/requests/" + name + ".json", "/requests/" + name + "/events"} {
			if w := ask(h, "GET", target); w.Code != http.StatusNotFound || !strings.Contains(html.UnescapeString(w.Body.String()), "no request's address") {
				t.Errorf("%.50s: %d %.300s", target, w.Code, w.Body)
			}
		}
	}
	if book.keys != nil {
		t.Errorf("the ledger was asked for %.200v", book.keys)
	}
}

// A filter that is none must not pass for one that lets everything through.
func TestNoSuchFilter(t *testing.T) {
	t.Parallel()
	h, _ := library(of("acme", "/a", "one"))
	for query, want := range map[string]string{
		"state=bogus": "state=bogus is none. There are state=open, ", "state=adopted": "state=created.", "state=posting": "state=posting is none",
		"tenant=a.b": "tenant=a.b is none", "tenant=%3Cscript%3E": "tenant=<script> is none", "state=failed&tenant=ACME": "tenant=ACME is none",
		"state=" + strings.Repeat("x", 10_000): "xxx… is none",
	} {
		for _, page := range []string{"/?", "/events?"} {
			w := ask(h, "GET", page+query)
			body := html.UnescapeString(w.Body.String())
			if w.Code != http.StatusBadRequest || !strings.Contains(strings.ToLower(body), "no such filter") || !strings.Contains(body, want) || strings.Contains(body, "/requests/acme") {
				t.Errorf("%s%.50s: %d\n%.2000s", page, query, w.Code, body)
			}
			if page == "/?" && strings.Contains(w.Body.String(), "<script>") || len(body) > 5000 {
				t.Errorf("%s%.50s: %d bytes", page, query, len(body))
			}
		}
	}
	if body := ask(h, "GET", "/?state=created&tenant=acme").Body.String(); !strings.Contains(body, "/requests/acme") || !strings.Contains(body, filtersNote) {
		t.Errorf("got\n%s", body)
	}
}

// A page of another site can link here, and no more: not even let the worker read the ledger by an image.
func TestForeignPages(t *testing.T) {
	t.Parallel()
	book := &wary{}
	h := NewStatusHandler(&Status{Health: &Health{}, Sources: Sources{Ledger: book}}, StatusOptions{Pprof: true})
	for headers, refused := range map[[3]string]bool{ // :: site, mode, destination → whether it is
		{"", "", ""}: false, {"none", "navigate", "document"}: false, {"same-origin", "cors", "empty"}: false, {"same-origin", "no-cors", "image"}: false,
		{"cross-site", "navigate", "document"}: false, {"same-site", "navigate", "document"}: false,
		{"cross-site", "no-cors", "image"}: true, {"cross-site", "no-cors", "script"}: true, {"cross-site", "cors", "empty"}: true, {"cross-site", "navigate", "iframe"}: true,
		{"cross-site", "no-cors", "document"}: true, {"cross-site", "", ""}: true, {"same-site", "no-cors", "image"}: true, {"odd", "no-cors", "image"}: true,
	} {
		for _, target := range []string{"/", "/requests?id=x", "/requests/acme.a.b", "/requests/acme.a.b.json", "/status.json", "/app.js", "/debug/pprof/"} {
			book.ids, book.keys = nil, nil
			w := ask(h, "GET", target, "Sec-Fetch-Site", headers[0], "Sec-Fetch-Mode", headers[1], "Sec-Fetch-Dest", headers[2])
			if (w.Code == http.StatusForbidden) != refused || refused && (book.ids != nil || book.keys != nil) {
				t.Errorf("%v %s: %d, the ledger was asked for %q %v", headers, target, w.Code, book.ids, book.keys)
			}
		}
	}
}
