package ops

import (
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// library returns a handler over these records.
func library(recs ...provision.Record) (http.Handler, *shelf) {
	book := &shelf{}
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
		p := newPages(&Status{Sources: Sources{Ledger: &shelf{}}})
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
	book := &shelf{}
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
