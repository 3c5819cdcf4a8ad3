package ops

import (
	"context"
	"fmt"
	"html"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// wary is a shelf that remembers what it was asked for.
type wary struct {
	shelf
	ids  []string
	keys []provision.Key
}

func (w *wary) ByID(ctx context.Context, id string) iter.Seq2[provision.Record, error] {
	w.ids = append(w.ids, id)
	return w.shelf.ByID(ctx, id)
}

func (w *wary) Record(ctx context.Context, key provision.Key) (provision.Record, error) {
	w.keys = append(w.keys, key)
	return w.shelf.Record(ctx, key)
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
