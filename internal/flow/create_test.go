package flow

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/google/go-cmp/cmp"
)

func TestCreateSendsTheTutorialsBody(t *testing.T) {
	t.Parallel()
	type seen struct {
		body   []byte
		header http.Header
		length int64
		proto  string
	}
	got := make(chan seen, 1)
	url, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{body, r.Header, r.ContentLength, r.Proto}
		reply(w, 201, string(sample(t, "connection-create-201.json")))
	})
	as := staticAccount()
	as.Trace = provision.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "a=b"}
	conn := provision.NewConnection{
		Name: "dbx-orders [req 7f3a9c51]", Description: "managed-by=conn-worker; request=7f3a9c51; tenant=globex",
		SpecName: "Access Token Authentication",
		Params: provision.Params{Domain: "https://adb-4455667788990011.3.azuredatabricks.net", ClusterID: "0712-091500-exmpl123",
			Database: "orders_db", Catalog: "main"},
		AccessToken:    provision.NewSensitive("EXAMPLE-NOT-A-TOKEN"),
		ConnectionSpec: provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"},
	}
	made, err := newRig(t, url).Create(t.Context(), as, conn, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	want := provision.Connection{ID: "3b0f6c1e-7a52-4f0c-9d11-5c2f8a7e4410", Etag: `"1f00a3c2-0000-0200-0000-690a1b2c0000"`}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Error(diff)
	}
	hits.want(t, postCall, 1)
	s := <-got
	if diff := cmp.Diff(parsed(t, sample(t, "connection-create-request.json")), parsed(t, s.body)); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if s.length != int64(len(s.body)) || s.proto != "HTTP/1.1" {
		t.Errorf("length %d of %d, %s", s.length, len(s.body), s.proto)
	}
	checkHeaders(t, s.header)
}

func checkHeaders(t *testing.T, got http.Header) {
	t.Helper()
	for name, want := range map[string]string{
		"Authorization": "Bearer " + staticBearer, "X-Api-Key": "api-key", "X-Gw-Ims-Org-Id": "ORG@AdobeOrg", "X-Sandbox-Name": "dev-eu",
		"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "flow-worker",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate": "a=b",
	} {
		if diff := cmp.Diff([]string{want}, got.Values(name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key", "Expect", "X-Sandbox-Id"} {
		if _, ok := got[name]; ok {
			t.Errorf("header %s is sent; it must not be", name)
		}
	}
}

func parsed(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCreateOmitsAnEmptyCatalog(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
		reply(w, 201, `{"id":"c1"}`)
	})
	if _, err := newRig(t, url).create(t, staticAccount()); err != nil {
		t.Fatal(err)
	}
	if body := <-got; strings.Contains(body, "catalog") {
		t.Errorf("body %s: want no catalog", body)
	}
}

func TestCreateReadsEveryFormOfSuccess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, body, location, etag string
		status                     int
		want                       provision.Connection
	}{
		{name: "documented", status: 201, body: `{"id":"c1","etag":"\"e\""}`, want: provision.Connection{ID: "c1", Etag: `"e"`}},
		{name: "200", status: 200, body: `{"id":"c1"}`, etag: `"h"`, want: provision.Connection{ID: "c1", Etag: `"h"`}},
		{name: "202", status: 202, body: `{"id":"c1"}`, want: provision.Connection{ID: "c1"}},
		{name: "in a list", status: 201, body: `{"items":[{"id":"c1","etag":"\"e\""}]}`, want: provision.Connection{ID: "c1", Etag: `"e"`}},
		{name: "number", status: 201, body: `{"id":17}`, want: provision.Connection{ID: "17"}},
		{name: "odd etag", status: 201, body: `{"id":"c1","etag":{}}`, want: provision.Connection{ID: "c1"}},
		{name: "location, no body", status: 204, location: "/connections/c2", want: provision.Connection{ID: "c2"}},
		{name: "location, empty body", status: 201, location: "https://h/flow/connections/c2?x=y", want: provision.Connection{ID: "c2"}},
		{name: "location, list of two", status: 201, body: `{"items":[{"id":"c1"},{"id":"c9"}]}`, location: "/connections/c2", want: provision.Connection{ID: "c2"}},
		{name: "location, odd id", status: 201, body: `{"id":"a/../b"}`, location: "/connections/c2/", want: provision.Connection{ID: "c2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for name, v := range map[string]string{"Location": tc.location, "Etag": tc.etag} {
					if v != "" {
						w.Header().Set(name, v)
					}
				}
				reply(w, tc.status, tc.body)
			})
			made, err := newRig(t, url).create(t, staticAccount())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, made); diff != "" {
				t.Error(diff)
			}
			hits.want(t, postCall, 1)
		})
	}
}

func TestCreateDoesNotBelieveASuccessWithoutAName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, location string }{
		"empty":              {},
		"no id":              {body: `{"etag":"x"}`},
		"id of another type": {body: `{"id":{"a":1}}`},
		"id with a blank":    {body: `{"id":"a b"}`},
		"id is a path":       {body: `{"id":".."}`},
		"not JSON":           {body: `<html><title>Hello</title></html>`},
		"location elsewhere": {location: "/login"},
		"location is list":   {location: "/flow/connections/"},
		"a page, location":   {body: `<html><title>Hello</title></html>`, location: "/flow/connections/c2"},
		"the token as id":    {body: `{"id":"` + staticBearer + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if tc.location != "" {
					w.Header().Set("Location", tc.location)
				}
				reply(w, 201, tc.body)
			})
			made, err := newRig(t, url).create(t, staticAccount())
			if err == nil || err.Verdict != provision.VerdictUnknown || err.Status != 201 || err.Cause == "" {
				t.Errorf("%+v, %+v: want an unknown outcome", made, err)
			}
			hits.want(t, postCall, 1)
		})
	}
}

func TestCreateRefusesWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	as, conn := staticAccount, newConnection
	type input struct {
		as   provision.Account
		conn provision.NewConnection
	}
	for name, tc := range map[string]struct {
		change  func(*input)
		verdict provision.Verdict
		says    string
	}{
		"no org":             {func(i *input) { i.as.Credentials.OrgID = "" }, provision.VerdictDenied, "orgId"},
		"no credentials":     {func(i *input) { i.as.Credentials = provision.Credentials{OrgID: "o"} }, provision.VerdictDenied, "clientId"},
		"no API key":         {func(i *input) { i.as.Credentials.APIKey = "" }, provision.VerdictDenied, "apiKey"},
		"bearer, line break": {func(i *input) { i.as.Credentials.AccessToken = provision.NewSensitive(staticBearer + "\n") }, provision.VerdictDenied, "accessToken"},
		"no sandbox":         {func(i *input) { i.as.Sandbox = "" }, provision.VerdictRejected, "sandbox"},
		"sandbox, header":    {func(i *input) { i.as.Sandbox = "a\r\nX-Evil: 1" }, provision.VerdictRejected, "sandbox"},
		"no token":           {func(i *input) { i.conn.AccessToken = provision.Sensitive{} }, provision.VerdictRejected, "auth.params.accessToken"},
		"token, line break":  {func(i *input) { i.conn.AccessToken = provision.NewSensitive(dbxToken + "\n") }, provision.VerdictRejected, "line breaks"},
		"name not UTF-8":     {func(i *input) { i.conn.Name = "a\xff" }, provision.VerdictRejected, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c"}`) })
			i, r := input{as(), conn()}, newRig(t, url)
			tc.change(&i)
			_, err := r.Create(t.Context(), i.as, i.conn, time.Now().Add(time.Minute))
			r.checkNoLeak(t, err)
			cerr := callError(t, err)
			if cerr == nil || cerr.Verdict != tc.verdict || !strings.Contains(cerr.Message, tc.says) {
				t.Errorf("%+v: want verdict %v about %s", cerr, tc.verdict, tc.says)
			}
			hits.want(t, postCall, 0)
		})
	}
}

func TestCreateDropsAMalformedTrace(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		reply(w, 201, `{"id":"c1"}`)
	})
	as := staticAccount()
	as.Trace = provision.Trace{Parent: "00-zz\r\nX-Evil: 1", State: "a=b"}
	if _, err := newRig(t, url).create(t, as); err != nil {
		t.Fatal(err)
	}
	if h := <-got; h.Get("Traceparent") != "" || h.Get("Tracestate") != "" || h.Get("X-Evil") != "" {
		t.Errorf("headers %v: want no trace", h)
	}
}

func TestCreateEndsWithItsTime(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(r *rig) error{
		"notAfter": func(r *rig) error {
			_, err := r.Create(context.Background(), staticAccount(), newConnection(), time.Now().Add(300*time.Millisecond))
			return err
		},
		"context": func(r *rig) error {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, err := r.Create(ctx, staticAccount(), newConnection(), time.Now().Add(time.Hour))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, hits := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client leave
				<-r.Context().Done()
			})
			r := newRig(t, url)
			err := callError(t, call(r))
			if err == nil || err.Verdict != provision.VerdictUnknown || err.Cause != provision.CauseTimeout {
				t.Errorf("%+v: want an unknown outcome by time-out", err)
			}
			hits.want(t, postCall, 1)
		})
	}
}

func TestCreateErrorIsNeverATypedNil(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 201, `{"id":"c1"}`) })
	if _, err := newRig(t, url).Create(t.Context(), staticAccount(), newConnection(), time.Now().Add(time.Minute)); err != nil {
		t.Errorf("error %v (%T), want nil", err, err)
	}
}

func BenchmarkPostBody(b *testing.B) {
	conn := newConnection()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(wireConnection(conn)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadSuccess reads the answer of a POST that succeeded, the scrubber that goes with it included.
func BenchmarkReadSuccess(b *testing.B) {
	as, conn := imsAccount(), newConnection()
	b.ReportAllocs()
	for b.Loop() {
		readConnection(answer{status: 201, body: []byte(`{"id":"5ac090ca-4ae2-4872-ae4d-963b78e4243f","etag":"\"1f00c0de\""}`)},
			scrubberOf(as.Credentials, conn.AccessToken, provision.NewSensitive(staticBearer)))
	}
}
