package flowtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFilters(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	at := b.clock.Now().UnixMilli()
	b.create("a b")
	b.clock.advance(time.Second)
	second := b.create("c")
	b.clock.advance(time.Second)
	b.create(`q"x`)
	for _, tt := range []struct {
		properties []string
		want       []string // newest first
	}{
		{nil, []string{`q"x`, "c", "a b"}},
		{[]string{"name==c"}, []string{"c"}},
		{[]string{`name=="c"`}, []string{"c"}},
		{[]string{"name==C"}, []string{}},
		{[]string{"name==a b"}, []string{"a b"}},
		{[]string{`name=="a b",c`}, []string{"c", "a b"}},
		{[]string{`name==q"x`}, []string{`q"x`}},
		{[]string{"name>b"}, []string{`q"x`, "c"}},
		{[]string{"name==c", "state==enabled"}, []string{"c"}},
		{[]string{"name==c", "name==a b"}, []string{}},
		{[]string{"name==c", "connectionSpec.id==" + DatabricksSpecID}, []string{"c"}},
		{[]string{"name==c", "connectionSpec.id==other"}, []string{}},
		{[]string{"connectionSpec.id==other," + DatabricksSpecID, "connectionSpec.version==1.0"}, []string{`q"x`, "c", "a b"}},
		{[]string{"description==about c"}, []string{"c"}},
		{[]string{"id==" + second.ID}, []string{"c"}},
		{[]string{"state==disabled,initializing"}, []string{}},
		{[]string{"auth.params.database==orders_db", "auth.specName==" + DatabricksAuthSpec}, []string{`q"x`, "c", "a b"}},
		{[]string{"auth.params.catalog==main"}, []string{}},
		{[]string{"auth.params.accessToken==EXAMPLE-NOT-A-TOKEN"}, []string{}},
		{[]string{"createdClient==" + testKey, "sandboxName==" + testSandbox, "imsOrgId==" + testOrg}, []string{`q"x`, "c", "a b"}},
		{[]string{fmt.Sprintf("createdAt>%d", at)}, []string{`q"x`, "c"}},
		{[]string{fmt.Sprintf("createdAt>=%d", at+1000), fmt.Sprintf("createdAt<%d", at+2000)}, []string{"c"}},
		{[]string{fmt.Sprintf("createdAt<=%d", at)}, []string{"a b"}},
		{[]string{fmt.Sprintf("updatedAt==%d", at)}, []string{"a b"}},
	} {
		if diff := cmp.Diff(tt.want, b.names(query(tt.properties...))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.properties, diff)
		}
	}
}

func TestFilterRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create("a")
	for q, code := range map[string]string{
		"property=name~a":                   "1440-400",
		"property=name<=a,b":                "1443-400",
		"property=id>=a":                    "1448-400",
		"property=connections==a":           "1449-400",
		"property=auth.params.==a":          "1449-400",
		"property=name!>a":                  "1450-400",
		"property=name=a":                   "1450-400",
		"property=createdAt==1,2":           "1452-400",
		"property=createdAt>soon":           "1452-400",
		"property=createdAt==":              "1453-400",
		"property=name":                     "1453-400",
		"property===":                       "1453-400",
		"property=":                         "1453-400",
		"property=name==%zz":                "1453-400",
		"property=state==delete-finalizing": "1456-400",
		"testParam=1":                       "1451-400",
		"start=1":                           "1451-400",
		"limit=5&count=true":                "1401-400",
		"limit=0":                           "1453-400",
		"limit=many":                        "1453-400",
		"count=maybe":                       "1453-400",
		"orderby=%23id":                     "1433-400",
		"orderby=--name":                    "1432-400",
		"orderby=-":                         "1433-400",
		"continuationToken=x":               "1453-400",
		"continuationToken=e30%3D":          "1453-400",
	} {
		t.Run(q, func(t *testing.T) {
			b.get("/connections?"+q).want(t, 400).wantCode(t, code)
		})
	}
	b.get("/connections?limit=5&count=false").want(t, 200)
}

// TestBlanks shows both ways to write a blank, and the strict one.
func TestBlanks(t *testing.T) {
	t.Parallel()
	for literal, plus := range map[bool]int{false: 1, true: 0} {
		b := newBed(t, func(c *Config) { c.LiteralPlus = literal })
		b.create("a b")
		for q, want := range map[string]int{
			"property=name==a%20b": 1, "property=name%3D%3Da%20b": 1, "property=name==a+b": plus, "property=name%3D%3Da+b": plus,
		} {
			if got := b.names("/connections?" + q); len(got) != want {
				t.Errorf("%s with LiteralPlus %t: %q, want %d", q, literal, got, want)
			}
		}
	}
}

// pages follows the next links from path to the end and returns all names and the number of pages.
func (b *bed) pages(path string, eachPage func()) (names []string, pages int) {
	b.t.Helper()
	for {
		var l listReply
		b.get(path).want(b.t, 200).decode(b.t, &l)
		for _, v := range l.Items {
			names = append(names, v.Name)
		}
		if pages++; l.Links.Next == nil {
			return names, pages
		}
		if path = l.Links.Next.Href; !strings.HasPrefix(path, "/connections?continuationToken=") {
			b.t.Fatalf("href = %q", path)
		}
		if token, err := url.QueryUnescape(path); err != nil || !strings.HasSuffix(token, "=") {
			b.t.Errorf("the token of %q does not end in =", path)
		}
		eachPage()
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var want []string
	for i := range 45 {
		name := fmt.Sprintf("n%02d", i)
		b.create(name)
		b.clock.advance(time.Millisecond)
		want = append(want, name)
	}
	up, down := slices.Clone(want), slices.Clone(want)
	slices.Reverse(down)
	for q, tt := range map[string]struct {
		want  []string
		pages int
	}{
		"":                                        {down, 3},
		"?limit=10":                               {down, 5},
		"?limit=15":                               {down, 3},
		"?limit=100":                              {down, 1},
		"?limit=1000":                             {down, 1},
		"?limit=10&orderby=name":                  {up, 5},
		"?limit=10&orderby=%2Bname":               {up, 5},
		"?limit=10&orderby=+name":                 {up, 5},
		"?limit=10&orderby=-name":                 {down, 5},
		"?limit=10&orderby=createdAt":             {up, 5},
		"?limit=10&orderby=-createdAt":            {down, 5},
		"?limit=7&orderby=state":                  {up, 7},
		"?limit=3&property=name%3Cn10":            {down[35:], 4},
		"?limit=3&orderby=name&property=name<n10": {up[:10], 4},
	} {
		got, pages := b.pages("/connections"+q, func() {})
		if diff := cmp.Diff(tt.want, got); diff != "" || pages != tt.pages {
			t.Errorf("%q: %d pages, want %d (-want +got):\n%s", q, pages, tt.pages, diff)
		}
	}
}

// TestPagingDuringWrites shows that new and deleted connections neither hide nor repeat others.
func TestPagingDuringWrites(t *testing.T) {
	t.Parallel()
	for _, q := range []string{"limit=2", "limit=2&orderby=name", "limit=2&orderby=-name"} {
		b := newBed(t)
		for i := range 9 {
			b.create("old" + strconv.Itoa(i))
		}
		removed := 0
		got, _ := b.pages("/connections?"+q, func() {
			b.create("new")
			if removed == 0 {
				b.do("DELETE", "/connections/"+b.em.Connections()[4].ID, "", nil).want(t, 204)
			}
			removed++
		})
		got = slices.DeleteFunc(got, func(s string) bool { return s == "new" })
		slices.Sort(got)
		want := []string{"old0", "old1", "old2", "old3", "old5", "old6", "old7", "old8"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", q, diff)
		}
	}
}

// TestLongLists crosses the chunks in which the store is read.
func TestLongLists(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	const n = 2*chunkSize + 3
	for i := range n {
		b.em.store.add(conn{in: scope{testOrg, testSandbox}, name: []string{"even", "odd"}[i%2], created: b.clock.Now()}, false)
	}
	var count struct{ Count int }
	b.get("/connections?count=true").want(t, 200).decode(t, &count)
	odd, _ := b.pages("/connections?limit=100&property=name==odd", func() {})
	none := b.names("/connections?property=description==none")
	if count.Count != n || len(odd) != n/2 || len(none) != 0 {
		t.Errorf("count %d, odd %d, none %d", count.Count, len(odd), len(none))
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"name==a", `name=="a b",c`, "createdAt>=5", "id==", "=", "~", "a!>b", `name=="`, "auth.params.x==,", "state==enabled"} {
		f.Add(s)
	}
	c := &conn{id: "1", name: "a", params: map[string]any{"x": 1.5, "y": nil, "z": []any{true}}, created: time.Unix(1, 0)}
	f.Fuzz(func(t *testing.T, s string) {
		got, bad := parseFilter(s)
		if bad != nil {
			if _, known := catalogue[bad.code]; !known {
				t.Errorf("%q gives the unknown code %s", s, bad.code)
			}
			return
		}
		if !strings.HasPrefix(s, got.path+got.op) || len(got.values) == 0 {
			t.Errorf("%q became %+v", s, got)
		}
		if joined := strings.Join(got.values, ","); got.path == "name" && got.op == "==" && !strings.Contains(s, `"`) && s != "name=="+joined {
			t.Errorf("%q became %+v", s, got)
		}
		got.matches(c, false, time.Unix(2, 0))
	})
}

func FuzzContinuationToken(f *testing.F) {
	f.Add(cursor{Limit: 1, After: 2}.encode())
	f.Add("e30=")
	f.Fuzz(func(t *testing.T, s string) {
		c, bad := decodeCursor(s)
		if bad != nil {
			return
		}
		back, bad := decodeCursor(c.encode())
		if bad != nil || back.encode() != c.encode() {
			t.Errorf("%+v became %+v, %v", c, back, bad)
		}
	})
}

func TestSelection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fault Fault
		want  bool
	}{
		{"operation", Fault{Operation: OpCreate}, true},
		{"any", Fault{Operation: OpAny}, true},
		{"other operation", Fault{Operation: OpList}, false},
		{"name", Fault{Name: "dbx-1"}, true},
		{"other name", Fault{Name: "dbx-"}, false},
		{"prefix", Fault{NamePrefix: "dbx-"}, true},
		{"other prefix", Fault{NamePrefix: "bq-"}, false},
		{"org", Fault{OrgID: testOrg}, true},
		{"other org", Fault{OrgID: "OTHER@AdobeOrg"}, false},
		{"sandbox", Fault{Sandbox: testSandbox}, true},
		{"other sandbox", Fault{Sandbox: "prod"}, false},
		{"one of several", Fault{Sandbox: testSandbox, Name: "other"}, false},
		{"skipped", Fault{Skip: 1}, false},
		{"never by chance", Fault{Probability: 1e-12}, false},
		{"always by chance", Fault{Probability: 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			tt.fault.Effect, tt.fault.Status = EffectStatus, 500
			b.em.AddFault(tt.fault)
			r, err := b.post("dbx-1")
			if err != nil || (r.status == 500) != tt.want {
				t.Errorf("status = %d, %v, want it struck: %t", r.status, err, tt.want)
			}
		})
	}
}

// TestSelectionByName shows where the name comes from in calls that have none in their body.
func TestSelectionByName(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	mine, other := "/connections/"+b.create("mine").ID, "/connections/"+b.create("other").ID
	b.em.AddFault(Fault{Name: "mine", Effect: EffectStatus, Status: 500})
	for path, want := range map[string]int{
		mine: 500, mine + "/test": 500, other: 200, "/connections/none": 404, "/connections": 200, "/connectionSpecs": 200,
		query("name==mine"): 500, query(`name=="mine"`): 500, query("state==enabled", "name==mine"): 500, query("name==other"): 200,
	} {
		b.get(path).want(t, want)
	}
}

func TestSkipTimesAndRemove(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	remove := b.em.AddFault(Fault{Operation: OpList, Effect: EffectStatus, Status: 500, Skip: 1, Times: 2})
	always := b.em.AddFault(Fault{Operation: OpGet, Effect: EffectStatus, Status: 503})
	var got []int
	for range 5 {
		got = append(got, b.get("/connections").status)
	}
	if want := []int{200, 500, 500, 200, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses = %d, want %d", got, want)
	}
	remove()
	remove()
	b.get("/connections/none").want(t, 503)
	always()
	b.get("/connections/none").want(t, 404)
}

func TestProbabilityIsSeeded(t *testing.T) {
	t.Parallel()
	run := func() (out []int) {
		b := newBed(t)
		b.em.AddFault(Fault{Effect: EffectStatus, Status: 500, Probability: 0.5})
		for range 40 {
			out = append(out, b.get("/connections").status)
		}
		return out
	}
	first := run()
	if second := run(); !slices.Equal(first, second) {
		t.Errorf("the same seed gave %d, then %d", first, second)
	}
	if !slices.Contains(first, 200) || !slices.Contains(first, 500) {
		t.Errorf("statuses = %d, want both kinds", first)
	}
}

func TestFaultsCombine(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.SetFaults(
		Fault{Effect: EffectTruncate, Bytes: 2},
		Fault{Effect: EffectReset, When: StageAfter, Times: 1},
		Fault{Effect: EffectStatus, Status: 500},
	)
	if _, err := b.post("a"); !cut(err) {
		t.Fatalf("err = %v, want a reset connection", err)
	}
	if all := b.em.Connections(); len(all) != 1 || all[0].Description != "ab" {
		t.Errorf("connections = %v, want one, with its description cut", all)
	}
	b.get("/connections").want(t, 500)
}

// TestAfterNeedsSuccess shows that a failed create is told as such.
func TestAfterNeedsSuccess(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.em.AddFault(Fault{Effect: EffectReset, When: StageAfter})
	b.do(http.MethodPost, "/connections", "", nil).want(t, 400).wantCode(t, "1405-400")
}

func TestFaultJSON(t *testing.T) {
	t.Parallel()
	f := Fault{
		Operation: OpCreate, Name: "a", NamePrefix: "b", OrgID: "c", Sandbox: "d", Skip: 1, Times: 2, Probability: 0.5,
		Effect: EffectStatus, When: StageAfter, Delay: time.Minute, Status: 429, Body: BodyGateway, Code: "429050",
		Message: "m", Header: map[string]string{"k": "v"}, RetryAfter: 1500 * time.Millisecond, RetryAfterDate: true,
		Bytes: 3, PerSecond: 4,
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"delay":"1m0s"`) || !strings.Contains(string(text), `"retryAfter":"1.5s"`) {
		t.Errorf("durations are not readable: %s", text)
	}
	var back Fault
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, back); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFaultValidate(t *testing.T) {
	t.Parallel()
	status := Fault{Effect: EffectStatus, Status: 500}
	with := func(change func(*Fault)) Fault { f := status; change(&f); return f }
	for want, f := range map[string]Fault{
		"operation":                  with(func(f *Fault) { f.Operation = "crate" }),
		`effect "" is none of`:       {},
		"cannot have when":           {Effect: EffectTruncate, When: StageAfter},
		"cannot select by name":      {Effect: EffectReset, When: StageUnread, Name: "a"},
		"skip and times":             with(func(f *Fault) { f.Times = -1 }),
		"probability":                with(func(f *Fault) { f.Probability = 1.5 }),
		"must not be negative":       with(func(f *Fault) { f.RetryAfter = -1 }),
		"needs a delay":              {Effect: EffectLatency},
		"a status from 200 to 599":   with(func(f *Fault) { f.Status = 101 }),
		"needs a body of":            with(func(f *Fault) { f.Body = "xml" }),
		"there is no answer yet":     with(func(f *Fault) { f.Body = BodyNoID }),
		"a code of digits":           with(func(f *Fault) { f.Body, f.Code = BodyGatewayNumber, "abc" }),
		"headers without line break": with(func(f *Fault) { f.Header = map[string]string{"a": "b\nc"} }),
		"needs perSecond":            {Effect: EffectRateLimit},
		"needs bytes":                {Effect: EffectTruncate, Bytes: -1},
		"needs habits of":            {Effect: EffectStore, Habits: []Habit{"name_upper"}},
		"needs a state":              {Effect: EffectState},
		"from 400 to 499":            {Effect: EffectUniqueNames, Status: 500},
		"needs fields of":            {Effect: EffectOmit, Fields: []string{"id"}},
		`fields of ["property"`:      {Effect: EffectRefuseQuery},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	if err := status.Validate(); err != nil {
		t.Error(err)
	}
}

func TestInvalidFaultPanics(t *testing.T) {
	t.Parallel()
	em := New(Config{})
	for name, call := range map[string]func(){
		"AddFault":  func() { em.AddFault(Fault{}) },
		"SetFaults": func() { em.SetFaults(Fault{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s accepted a fault without effect", name)
				}
			}()
			call()
		}()
	}
}
