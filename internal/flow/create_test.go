package flow

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
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
		{name: "no UUID", status: 201, body: `{"id":"gw.17_x"}`, want: provision.Connection{ID: "gw.17_x"}},
		{name: "a whole connection", status: 201, body: `{"id":"c1","name":"n","state":"enabled","status":201,"error":null,"message":"","auth":{"params":{"status":"x"}},"lastOperation":{"operation":"create"}}`, want: provision.Connection{ID: "c1"}},
		{name: "odd etag", status: 201, body: `{"id":"c1","etag":{}}`, want: provision.Connection{ID: "c1"}},
		{name: "location, empty body", status: 201, location: "/connections/c2", want: provision.Connection{ID: "c2"}},
		{name: "location, absolute", status: 201, location: "HOST/flow/connections/c2/?x=y", want: provision.Connection{ID: "c2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url, hits := serve(t, func(w http.ResponseWriter, r *http.Request) {
				for name, v := range map[string]string{"Location": strings.Replace(tc.location, "HOST", "http://"+r.Host, 1), "Etag": tc.etag} {
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
	for name, tc := range map[string]struct {
		status         int // 201 if 0
		body, location string
	}{
		"empty":                  {},
		"no id":                  {body: `{"etag":"x"}`},
		"no id, location":        {body: `{"etag":"x"}`, location: "/connections/c2"},
		"id of another type":     {body: `{"id":{"a":1}}`},
		"id is a number":         {body: `{"id":5}`},
		"id in another case":     {body: `{"ID":"x1"}`},
		"id twice":               {body: `{"id":"a1","id":"b2"}`},
		"id in two cases":        {body: `{"id":"a1","Id":"b2"}`},
		"id with a blank":        {body: `{"id":"a b"}`},
		"id is a path":           {body: `{"id":".."}`, location: "/connections/c2"},
		"a list":                 {body: `{"items":[{"id":"c1"}]}`},
		"two values":             {body: `{"id":"a1"}{"id":"b2"}`},
		"with a message":         {status: 200, body: `{"id":"gw-trace-12345","message":"ok"}`},
		"with an error":          {status: 200, body: `{"id":"8f0c","error":"internal"}`},
		"with errors":            {body: `{"id":"8f0c","errors":[{"code":1}]}`},
		"with a code":            {body: `{"id":"8f0c","error_code":"403000"}`},
		"with an error message":  {body: `{"id":"8f0c","errorMessage":"x"}`},
		"with a failed status":   {body: `{"id":"0b8fb0f7-4a0f-4a3a-9d3b-9a3a7a9a7a9a","status":"FAILED"}`},
		"with another's state":   {body: `{"id":"c1","state":"queued"}`},
		"with a status of 500":   {body: `{"id":"c1","status":"500"}`},
		"without success":        {body: `{"id":"c1","success":false}`},
		"202, a job":             {status: 202, body: `{"id":"job-77","status":"accepted"}`},
		"202":                    {status: 202, body: `{"id":"c1"}`},
		"203":                    {status: 203, body: `{"id":"c1"}`},
		"207":                    {status: 207, body: `{"items":[{"id":"x7","status":500}]}`},
		"204, location":          {status: 204, location: "/connections/c2"},
		"200, location":          {status: 200, location: "/connections/c2"},
		"not JSON":               {body: `<html><title>Hello</title></html>`},
		"location elsewhere":     {location: "/login"},
		"location, other host":   {location: "https://evil/connections/abc"},
		"location, no scheme":    {location: "//evil/connections/abc"},
		"location, no authority": {location: "https:/connections/abc"},
		"location is list":       {location: "/flow/connections/"},
		"a page, location":       {body: `<html><title>Hello</title></html>`, location: "/flow/connections/c2"},
		"the token as id":        {body: `{"id":"` + staticBearer + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := tc.status
			if status == 0 {
				status = 201
			}
			url, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if tc.location != "" {
					w.Header().Set("Location", tc.location)
				}
				reply(w, status, tc.body)
			})
			made, err := newRig(t, url).create(t, staticAccount())
			if err == nil || err.Verdict != provision.VerdictUnknown || err.Status != status || err.Cause == "" {
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
	as, conn, base := imsAccount(), newConnection(), &url.URL{Scheme: "https", Host: "platform.adobe.io"}
	b.ReportAllocs()
	for b.Loop() {
		readConnection(answer{status: 201, body: []byte(`{"id":"5ac090ca-4ae2-4872-ae4d-963b78e4243f","etag":"\"1f00c0de\""}`)}, base,
			scrubberOf(as.Credentials, conn.AccessToken, provision.NewSensitive(staticBearer)))
	}
}
