package flow

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/google/go-cmp/cmp"
)

const specID = "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b"

func TestFindReadsTheSample(t *testing.T) {
	t.Parallel()
	addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.RawQuery, "property=name==dbx-orders%20%5Breq%207f3a9c51%5D&property=connectionSpec.id=="+specID+"&limit=100"; got != want {
			t.Errorf("query\n%s, want\n%s", got, want)
		}
		if r.Header.Get("X-Sandbox-Name") != "dev-eu" || r.Header.Get("Authorization") != "Bearer "+staticBearer {
			t.Errorf("headers %v", r.Header)
		}
		reply(w, 200, string(sample(t, "connections-list-by-name-200.json")))
	})
	found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{Names: []string{"dbx-orders [req 7f3a9c51]"}, SpecID: specID})
	if err != nil {
		t.Fatal(err)
	}
	want := []provision.Found{{
		Connection:  provision.Connection{ID: "3b0f6c1e-7a52-4f0c-9d11-5c2f8a7e4410", Etag: `"1f00a3c2-0000-0200-0000-690a1b2c0000"`},
		Name:        "dbx-orders [req 7f3a9c51]",
		Description: "managed-by=conn-worker; request=7f3a9c51; tenant=globex",
		CreatedAt:   time.UnixMilli(1762269996120).UTC(), State: "enabled", SpecID: specID, SpecVersion: "1.0",
		Domain: "https://adb-4455667788990011.3.azuredatabricks.net", ClusterID: "0712-091500-exmpl123", Database: "orders_db",
	}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
	hits.want(t, listCall, 1)
}

func TestFindSamples(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]int{"connections-list-empty-200.json": 0, "connections-list-duplicate-200.json": 2} {
		addr, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, string(sample(t, file))) })
		found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
		if err != nil || len(found) != want {
			t.Errorf("%s: %d found, %v; want %d", file, len(found), err, want)
		}
	}
}

// TestFindReturnsWhatIsListed: whatever the Flow Service takes a filter to mean, its list is the caller's to
// judge, for what it has stored may be otherwise than it was sent. Want chooses.
func TestFindReturnsWhatIsListed(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, `{"items":[
			{"id":"1","name":"orders","description":"","connectionSpec":{"id":"s"}},
			{"id":"2","name":"Orders","description":null,"connectionSpec":{"id":"S"}},
			{"id":"3","name":"orders","description":7},
			{"id":"4","description":{"a":"b"},"connectionSpec":{"id":"other"}},
			{"id":"4","description":{"a":"b"},"connectionSpec":{"id":"other"}},
			{"id":"5","name":"orders","connectionSpec":"odd","auth":[],"createdAt":{},"state":false,"extra":1}]}`)
	})
	r := newRig(t, addr)
	found, err := r.find(t, staticAccount(), provision.Query{Names: []string{"orders"}, SpecID: "s"})
	if err != nil {
		t.Fatal(err)
	}
	var ids, undescribed []string
	for _, f := range found {
		ids = append(ids, f.ID)
		if f.Undescribed {
			undescribed = append(undescribed, f.ID)
		}
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "5"}, ids); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"2", "3", "4", "5"}, undescribed); diff != "" {
		t.Error(diff)
	}
	found, err = r.find(t, staticAccount(), provision.Query{Want: func(f provision.Found) bool { return f.Name == "Orders" }})
	if err != nil || len(found) != 1 || found[0].ID != "2" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestFindWithOddNames checks what is filtered by: the server reads the filter back as it was meant,
// or there is none, and the connection is found either way.
func TestFindWithOddNames(t *testing.T) {
	t.Parallel()
	for name, filtered := range map[string]bool{
		"plain": true, "two words": true, "a+b": true, "50%": true, "ümläut 日本": true, "a/b?c#d": true, "it's": true, "a;b": true,
		"a,b": false, `say "hi"`: false, "a&b": false, "a=b": false, "a>b": false, `a\b`: false,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				checkFilter(t, r.URL.RawQuery, name, filtered)
				reply(w, 200, fmt.Sprintf(`{"items":[{"id":"other","name":"x"},{"id":"c1","name":%q}]}`, name))
			})
			found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{Names: []string{name}})
			if err != nil || len(found) != 2 || found[1].ID != "c1" || found[1].Name != name {
				t.Errorf("%+v, %v; want c1", found, err)
			}
		})
	}
}

func checkFilter(t *testing.T, raw, name string, filtered bool) {
	t.Helper()
	q, err := url.ParseQuery(raw)
	if err != nil || strings.Contains(raw, "+") {
		t.Errorf("query %s: %v", raw, err)
	}
	var want []string
	if filtered {
		want = []string{"name==" + name}
	}
	if diff := cmp.Diff(want, q["property"]); diff != "" {
		t.Errorf("filter: %s", diff)
	}
}

func TestFindGoesThroughAllPages(t *testing.T) {
	t.Parallel()
	links := map[string]string{ // :: token of a page → link to the next one; HOST is the server's address
		"":       "/connections?continuationToken=t1%3D%3D",
		"t1==":   "HOST/flow/connections?continuationToken=t2",
		"t2":     "/flow/connections?continuationToken=t3",
		"t3":     "connections?continuationToken=t4&limit=100",
		"t4":     "?continuationToken=t5",
		"t5":     "",
		"unused": "",
	}
	addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token := r.URL.Query().Get("continuationToken")
		next := strings.Replace(links[token], "HOST", "http://"+r.Host, 1)
		reply(w, 200, fmt.Sprintf(`{"items":[{"id":"id%s"}],"_links":{"next":{"href":%q}}}`, strings.Trim(token, "="), next))
	})
	found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
	if err != nil || len(found) != 6 || found[5].ID != "idt5" {
		t.Errorf("%+v, %v; want 6 connections", found, err)
	}
	hits.want(t, listCall, 6)
}

// TestFindRefusesBadPages: a listing that can't be read to its end is an error, for what it does not
// show may be what was sought. It isn't followed elsewhere, for the bearer token would go along.
func TestFindRefusesBadPages(t *testing.T) {
	t.Parallel()
	var abroad atomic.Int64
	foreign, _ := serve(t, func(http.ResponseWriter, *http.Request) { abroad.Add(1) })
	link := func(href string) string { return fmt.Sprintf(`{"items":[],"_links":{"next":{"href":%q}}}`, href) }
	for name, tc := range map[string]struct {
		body  string
		tries int
		says  string
	}{
		"other host":        {link(foreign + "/flow/connections?continuationToken=x"), maxTries, "leads elsewhere"},
		"no scheme":         {link(strings.TrimPrefix(foreign, "http:") + "/flow/connections?continuationToken=x"), maxTries, "leads elsewhere"},
		"other scheme":      {link("https://127.0.0.1/flow/connections?x=y"), maxTries, "leads elsewhere"},
		"other path":        {link("/flow/flows?continuationToken=x"), maxTries, "leads elsewhere"},
		"path climbs":       {link("/flow/connections/../../ims?x=y"), maxTries, "leads elsewhere"},
		"user info":         {link("http://u:p@127.0.0.1/flow/connections?x=y"), maxTries, "leads elsewhere"},
		"opaque":            {link("mailto:a?x=y"), maxTries, "leads elsewhere"},
		"no query":          {link("/connections"), maxTries, "names no page"},
		"no URL":            {link("%zz"), maxTries, "no URL"},
		"link is number":    {`{"items":[],"_links":{"next":{"href":7}}}`, maxTries, ""},
		"links is list":     {`{"items":[],"_links":[]}`, maxTries, ""},
		"circle":            {link("?limit=100"), 1, "circle"},
		"no items":          {`{"count":1}`, maxTries, ""},
		"items is object":   {`{"items":{}}`, maxTries, ""},
		"null":              {`null`, maxTries, ""},
		"item is null":      {`{"items":[null]}`, maxTries, ""},
		"item without id":   {`{"items":[{"id":"a"},{"name":"x"}]}`, maxTries, ""},
		"id is path":        {`{"items":[{"id":"../flows/1"}]}`, maxTries, ""},
		"HTML":              {`<html>`, maxTries, ""},
		"cut":               {`{"items":[{"id":"a"}`, maxTries, ""},
		"another's pages":   {`{"items":[{"id":"a"}],"_page":{"next":"x"}}`, maxTries, "no link to it"},
		"errors":            {`{"items":[],"errors":[{"code":"TIMEOUT"}]}`, maxTries, "failed"},
		"an error":          {`{"items":[],"error":"internal"}`, maxTries, "failed"},
		"a message":         {`{"items":[],"message":"degraded","status":503}`, maxTries, "failed"},
		"a status":          {`{"items":[],"status":503}`, maxTries, "failed"},
		"a status in words": {`{"items":[],"_meta":{"status":"PARTIAL"}}`, maxTries, "failed"},
		"no success":        {`{"success":false,"items":[]}`, maxTries, "failed"},
		"failed shards":     {`{"items":[],"_shards":{"total":0,"failed":1}}`, maxTries, "failed"},
		"timed out":         {`{"items":[],"timed_out":true}`, maxTries, "not complete"},
		"partial":           {`{"items":[],"isPartial":true}`, maxTries, "not complete"},
		"counts more":       {`{"items":[],"count":5}`, 1, "more than it shows"},
		"counts more, text": {`{"items":[{"id":"a"}],"_page":{"totalCount":"2"}}`, 1, "more than it shows"},
		"a total":           {`{"items":[],"total":5,"hasMore":true}`, maxTries, "no link to it"},
		"more pages":        {`{"items":[{"id":"a"}],"_page":{"totalPages":2}}`, 1, "more than it shows"},
		"has more":          {`{"items":[],"has_more":true,"_links":{"next":{"href":""}}}`, maxTries, "no link to it"},
		"not the last":      {`{"items":[],"last":false}`, maxTries, "no link to it"},
		"next is object":    {`{"items":[],"_page":{"next":{"start":"x"}}}`, maxTries, "no link to it"},
		"next is string":    {`{"items":[],"_links":{"next":"/connections?x=1"}}`, maxTries, "expected"},
		"next has a URL":    {`{"items":[],"_links":{"next":{"url":"/connections?x=1"}}}`, maxTries, "can't be read"},
		"next, OData":       {`{"items":[],"@odata.nextLink":"/connections?x=1"}`, maxTries, "no link to it"},
		"items, other case": {`{"Items":[]}`, maxTries, "another case"},
		"links, other case": {`{"items":[],"_Links":{"next":{"href":"?x=1"}}}`, maxTries, "another case"},
		"items twice":       {`{"items":[{"id":"a"}],"items":[]}`, maxTries, "expected"},
		"id twice":          {`{"items":[{"id":"a","id":"b"}]}`, maxTries, "expected"},
		"two values":        {`{"items":[]}{"items":[{"id":"a"}]}`, maxTries, "expected"},
		"token only":        {`{"items":[{"id":"a"}],"_links":{},"continuationToken":"x"}`, maxTries, "no link to it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, tc.body) })
			found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
			if err == nil || found != nil || err.Verdict != provision.VerdictUnknown || err.Cause == "" {
				t.Errorf("%+v, %+v: want an error", found, err)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v: want it to say %q", err, tc.says)
			}
			if n := hits.get(listCall); n != tc.tries {
				t.Errorf("asked %d times, want %d", n, tc.tries)
			}
		})
	}
	t.Cleanup(func() {
		if n := abroad.Load(); n != 0 {
			t.Errorf("the foreign host was called %d times", n)
		}
	})
}

// TestFindBelievesHarmlessMembers: what a page says beside its items spoils it only where it says that something
// is missing.
func TestFindBelievesHarmlessMembers(t *testing.T) {
	t.Parallel()
	for _, frame := range []string{
		`"_links":{}`, `"_links":null`, `"_links":{"next":null}`, `"_links":{"next":{}}`, `"_links":{"next":{"href":null}}`, `"_links":{"self":{"href":"/connections"}}`,
		`"_page":{"count":1,"limit":20,"next":null,"orderby":"-createdAt"}`, `"count":1`, `"total":1,"limit":100,"hasMore":false`, `"_page":{"totalPages":1,"totalCount":"1"}`,
		`"errors":[],"error":null,"message":""`, `"status":200`, `"status":"ok","success":true`, `"requestId":"x","sandboxId":"y"`, `"count":0`,
	} {
		addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{"items":[{"id":"a"}],`+frame+`}`) })
		if found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{}); err != nil || len(found) != 1 {
			t.Errorf("%s: %+v, %v", frame, found, err)
		}
		hits.want(t, listCall, 1)
	}
}

// TestFindCountsOverAllPages: a page may tell the number of all, and does so on the last one, too.
func TestFindCountsOverAllPages(t *testing.T) {
	t.Parallel()
	for total, complete := range map[int]bool{2: true, 3: false} {
		addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			next := `"_links":{"next":{"href":"?continuationToken=x"}},"hasMore":true`
			if r.URL.Query().Has("continuationToken") {
				next = `"hasMore":false`
			}
			reply(w, 200, fmt.Sprintf(`{"items":[{"id":%q}],"total":%d,"_page":{"totalPages":2},%s}`, "c"+r.URL.Query().Get("continuationToken"), total, next))
		})
		if found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{}); complete != (err == nil) || complete && len(found) != 2 {
			t.Errorf("of %d: %+v, %v", total, found, err)
		}
	}
}

func TestFindGivesUpOnEndlessPages(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, fmt.Sprintf(`{"items":[],"_links":{"next":{"href":"?continuationToken=%d"}}}`, n.Add(1)))
	})
	if _, err := newRig(t, addr).find(t, staticAccount(), provision.Query{}); err == nil || err.Verdict != provision.VerdictUnknown {
		t.Errorf("%v: want an error", err)
	}
	hits.want(t, listCall, maxStale)
}

func TestFindRepeatsWhatMayPass(t *testing.T) {
	t.Parallel()
	for status, cause := range map[int]string{500: "flow status", 503: "flow status", 429: "flow throttled", 408: "flow status"} {
		var n atomic.Int64
		addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) < maxTries {
				reply(w, status, `{"message":"later"}`)
				return
			}
			reply(w, 200, `{"items":[{"id":"c1"}]}`)
		})
		r := newRig(t, addr)
		if found, err := r.find(t, staticAccount(), provision.Query{}); err != nil || len(found) != 1 {
			t.Errorf("status %d: %v, %v; want one", status, found, err)
		}
		hits.want(t, listCall, maxTries)
		r.retries.want(t, cause, maxTries-1)
	}
}

func TestFindGivesUp(t *testing.T) {
	t.Parallel()
	for status, tries := range map[int]int{500: maxTries, 429: maxTries, 400: 2, 401: 1, 403: 1, 404: 1, 302: maxTries} {
		addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/stray")
			reply(w, status, `{"errorMessage":"no `+staticBearer+`"}`)
		})
		r := newRig(t, addr)
		_, err := r.find(t, staticAccount(), provision.Query{})
		if err == nil || err.Status != status || err.Verdict != statusVerdict(status) || !strings.Contains(err.Message, "no [redacted]") {
			t.Errorf("status %d: %+v", status, err)
		}
		hits.want(t, listCall, tries)
		hits.want(t, "GET /stray", 0)
	}
}

func TestFindLeavesALongWaitToItsCaller(t *testing.T) {
	t.Parallel()
	addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		reply(w, 429, "")
	})
	_, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
	if err == nil || err.Verdict != provision.VerdictThrottled || err.RetryAfter != time.Hour {
		t.Errorf("%+v: want to be told to wait an hour", err)
	}
	hits.want(t, listCall, 1)
}

func TestFindStopsWithItsContext(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := newRig(t, addr, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	_, err := r.find(t, staticAccount(), provision.Query{})
	if err == nil || err.Cause != provision.CauseTimeout {
		t.Errorf("%+v: want a time-out", err)
	}
	r.retries.want(t, "flow timeout", maxTries-1) // a try that timed out while dialing never hit the server
}

// TestFindNewestFirst: a listing that is asked for by time alone ends where all that follows is too old, but
// only where it is seen to be in order.
func TestFindNewestFirst(t *testing.T) {
	t.Parallel()
	const pages, perPage = 6, 30
	item := func(n int) string {
		return fmt.Sprintf(`{"id":"%d","createdAt":%d}`, n, 1_700_000_000_000-int64(n)*1000)
	}
	since := time.UnixMilli(1_700_000_000_000 - 9_500) // ten are as new
	for name, tc := range map[string]struct {
		item  func(n int) string
		pages int
		q     provision.Query
	}{
		"in order":   {item, 1, provision.Query{Since: since}},
		"the newest": {item, 1, provision.Query{Newest: true}},
		"everything": {item, pages, provision.Query{}},
		"narrowed":   {item, pages, provision.Query{Since: since, Names: []string{"x"}}},
		"no times":   {func(n int) string { return fmt.Sprintf(`{"id":"%d"}`, n) }, pages, provision.Query{Since: since}},
		"one without its time": {func(n int) string {
			return strings.Replace(item(n), `"createdAt":1699999977000`, `"createdAt":"soon"`, 1)
		}, pages, provision.Query{Since: since}},
		"oldest first": {func(n int) string { return item(pages*perPage - n) }, pages, provision.Query{Since: since}},
		"one out of order": {func(n int) string {
			return strings.Replace(item(n), `"createdAt":1699999995000`, `"createdAt":1699999005000`, 1)
		}, pages, provision.Query{Since: since}},
		"each twice":  {func(n int) string { return item(n / 2) }, 2, provision.Query{Since: since}},
		"few are old": {func(n int) string { return item(n - 20) }, 2, provision.Query{Since: since}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
				n, next := 0, ""
				if token := r.URL.Query().Get("continuationToken"); token != "" {
					_, _ = fmt.Sscan(token, &n)
				} else if filtered, ordered := r.URL.Query().Has("property"), r.URL.Query().Get("orderby") == "-createdAt"; filtered == ordered && name != "everything" {
					t.Errorf("query %s", r.URL.RawQuery)
				}
				var items []string
				for i := range perPage {
					items = append(items, tc.item(n*perPage+i))
				}
				if n < pages-1 {
					next = fmt.Sprintf(`"next":{"href":"?continuationToken=%d"}`, n+1)
				}
				reply(w, 200, fmt.Sprintf(`{"items":[%s],"_links":{%s}}`, strings.Join(items, ","), next))
			})
			if _, err := newRig(t, addr).find(t, staticAccount(), tc.q); err != nil {
				t.Error(err)
			}
			hits.want(t, listCall, tc.pages)
		})
	}
}

// TestFindAsksPlainlyWhereItIsRefused: a filter, an order or a limit that the Flow Service doesn't take.
func TestFindAsksPlainlyWhereItIsRefused(t *testing.T) {
	t.Parallel()
	for refused, calls := range map[string]int{"property": 2, "property orderby": 3, "property orderby limit": 4} {
		addr, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
			for _, p := range strings.Fields(refused) {
				if r.URL.Query().Has(p) {
					reply(w, 400, `{"type":"https://ns.adobe.com/aep/errors/FLOW-1451-400","errorMessage":"Invalid params"}`)
					return
				}
			}
			reply(w, 200, `{"items":[{"id":"c1"}]}`)
		})
		found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{Names: []string{"x"}, Since: time.Unix(1, 0)})
		if err != nil || len(found) != 1 {
			t.Errorf("%s: %+v, %v", refused, found, err)
		}
		hits.want(t, listCall, calls)
	}
}

// TestFindBearsRepeatedPages: what is listed twice, and pages that show nothing new, end nothing.
func TestFindBearsRepeatedPages(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		i := n.Add(1)
		next := fmt.Sprintf(`"next":{"href":"?continuationToken=%d"}`, i)
		if i == 5*maxStale {
			next = ""
		}
		reply(w, 200, fmt.Sprintf(`{"items":[{"id":"%d"}],"_links":{%s}}`, i/maxStale, next))
	})
	found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{})
	if err != nil || len(found) != 6 {
		t.Errorf("%d found, %v", len(found), err)
	}
	hits.want(t, listCall, 5*maxStale)
}

func TestGet(t *testing.T) {
	t.Parallel()
	const getCall = "GET /flow/connections/3b0f6c1e-7a52-4f0c-9d11-5c2f8a7e4410"
	for name, tc := range map[string]struct {
		status  int
		body    string
		verdict provision.Verdict
		tries   int
	}{
		"there":         {200, string(sample(t, "connection-get-200.json")), -1, 1},
		"gone":          {404, string(sample(t, "error-flow-404.json")), provision.VerdictRejected, 1},
		"a gateway's":   {404, `{"message":"no Route matched with those values"}`, provision.VerdictUnknown, maxTries},
		"another":       {200, `{"items":[{"id":"c2"}]}`, provision.VerdictUnknown, 1},
		"none":          {200, `{"items":[]}`, provision.VerdictUnknown, 1},
		"a portal":      {200, `<html>`, provision.VerdictUnknown, maxTries},
		"no content":    {204, ``, provision.VerdictUnknown, maxTries},
		"token refused": {401, `{"error_code":"401013","message":"Oauth token is not valid"}`, provision.VerdictUnauthorized, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, tc.status, tc.body) })
			r := newRig(t, addr)
			got, err := r.Get(t.Context(), staticAccount(), "3b0f6c1e-7a52-4f0c-9d11-5c2f8a7e4410")
			r.checkNoLeak(t, err)
			cerr := callError(t, err)
			switch {
			case tc.verdict < 0:
				if cerr != nil || got.Description == "" || got.State != "enabled" || got.ClusterID == "" {
					t.Errorf("%+v, %v", got, cerr)
				}
			case cerr == nil || cerr.Verdict != tc.verdict:
				t.Errorf("%+v, want %v", cerr, tc.verdict)
			}
			hits.want(t, getCall, tc.tries)
		})
	}
}

// TestFindSeesACutList: a list that ends with a full page, but counts more, was cut.
func TestFindSeesACutList(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		count string
		cut   bool
	}{
		"as many": {`{"count":100}`, false}, "more": {`{"count":101}`, true}, "lists instead": {`{"items":[]}`, false}, "neither": {`{}`, true},
	} {
		addr, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("count") == "true" {
				if r.URL.Query().Get("property") != "name==x" || r.URL.Query().Has("limit") {
					t.Errorf("%s: counted by %s", name, r.URL.RawQuery)
				}
				reply(w, 200, tc.count)
				return
			}
			var items []string
			for i := range fullPage {
				items = append(items, fmt.Sprintf(`{"id":"%d"}`, i))
			}
			reply(w, 200, `{"items":[`+strings.Join(items, ",")+`]}`)
		})
		if found, err := newRig(t, addr).find(t, staticAccount(), provision.Query{Names: []string{"x"}}); (err != nil) != tc.cut || err == nil && len(found) != fullPage {
			t.Errorf("%s: %d found, %v", name, len(found), err)
		}
	}
}
