package provision

import (
	"strings"
	"testing"
)

func TestMarkIn(t *testing.T) {
	t.Parallel()
	const digits = "0123456789abcdef0123456789abcdef"
	const mark = "[flow-worker " + digits + "]"
	for description, want := range map[string]string{
		"the orders " + mark:                            digits,
		mark:                                            digits,
		"the orders " + mark + " \u200b\n":              digits,
		"x " + mark + " (do not delete)":                digits,
		"x " + strings.ToUpper(mark):                    digits,
		"x " + strings.ReplaceAll(mark, " ", ""):        digits,
		"x " + strings.ReplaceAll(mark, " ", "\u00a0 "): digits,
		"x " + mark[:len(mark)-1]:                       digits,
		"x &#91;flow-worker " + digits + "&#93;":        digits,
		"x &amp;#91;flow-worker " + digits + "]":        digits,
		"x &lbrack;flow-worker " + digits + "&rsqb;":    digits,
		"x \uff3bflow-worker " + digits + "\uff3d":      digits,
		"[flow-worker 99] " + mark + " [flow-worker":    digits,
		"x " + mark[:20]:                                digits[:7],
		"x " + mark[:20] + "...":                        digits[:7],
		"x " + mark[:20] + "\u2026":                     digits[:7],
		"x " + mark[:14]:                                digits[:1],
	} {
		if got, marked := markIn(description); got != want || !marked {
			t.Errorf("%q: %q, %v; want %q", description, got, marked, want)
		}
	}
	for _, description := range []string{"", "x", "flow-worker " + digits, "[flow", "[flow-work"} {
		if got, marked := markIn(description); got != "" || marked {
			t.Errorf("%q: %q, %v; want none", description, got, marked)
		}
	}
	if got, marked := markIn("x [flow-worker"); got != "" || !marked {
		t.Errorf("%q, %v; want a mark without digits", got, marked)
	}
	k := testRequest().Key
	if got, _ := markIn("x " + k.Mark()); got != k.markHex() || len(got) != markDigits {
		t.Errorf("%q, want %q", got, k.markHex())
	}
}

// TestStanding: all digits make it ours, whatever else was stored; some of them make it doubtful; another's
// never are.
func TestStanding(t *testing.T) {
	t.Parallel()
	h := newTestHub(t, nil)
	d0 := delivery()
	s := situation{cfg: &h.Config, d: &d0, at: h.moment()}
	s.rec = s.firstRecord()
	s.rec.FirstPostAt = h.Clock.Now()
	who := s.sought()
	mine, d := testRequest().Key.Mark(), testRequest().Data
	theirs := secondRequest().Key.Mark()
	old := h.Clock.Now().Add(-2 * upstreamSkew)
	like := Found{Name: d.Name, SpecID: d.ConnectionSpec.ID, Domain: d.Auth.Params.Domain, ClusterID: "c1", CreatedAt: h.Clock.Now()}
	for name, tc := range map[string]struct {
		change func(*Found)
		want   standing
	}{
		"ours":                         {func(f *Found) { f.Description = mine }, ours},
		"ours, old, of another name":   {func(f *Found) { *f = Found{Description: strings.ToUpper(mine), Name: "x", SpecID: "y", CreatedAt: old} }, ours},
		"ours, a draft":                {func(f *Found) { f.Description, f.State = mine, "draft" }, ours},
		"ours, deleted":                {func(f *Found) { f.Description, f.State = mine, "DELETED" }, others},
		"another's":                    {func(f *Found) { f.Description = theirs }, others},
		"ours and another's":           {func(f *Found) { f.Description = mine + theirs }, others},
		"cut":                          {func(f *Found) { f.Description = mine[:20] }, perhaps},
		"cut, another name":            {func(f *Found) { f.Description, f.Name = mine[:20], "x" }, perhaps},
		"cut to two digits, same name": {func(f *Found) { f.Description = mine[:15] }, perhaps},
		"cut to two digits":            {func(f *Found) { f.Description, f.Name = mine[:15], "x" }, others},
		"another's, cut":               {func(f *Found) { f.Description = theirs[:20] }, others},
		"cut, old":                     {func(f *Found) { f.Description, f.CreatedAt = mine[:20], old }, others},
		"no mark":                      {func(f *Found) { f.Description = "made by hand" }, perhaps},
		"no mark, old":                 {func(f *Found) { f.CreatedAt = old }, others},
		"no mark, other letters":       {func(f *Found) { f.Name, f.SpecID, f.ClusterID = " \u200bORDERS", "E9D7EC6B", "C1" }, perhaps},
		"no mark, nothing told":        {func(f *Found) { *f = Found{} }, perhaps},
		"no mark, another name":        {func(f *Found) { f.Name = "orders-2" }, others},
		"no mark, another connector":   {func(f *Found) { f.SpecID = "s3" }, others},
		"no mark, another cluster":     {func(f *Found) { f.ClusterID = "c2" }, others},
		"no mark, another workspace":   {func(f *Found) { f.Domain = "https://adb-2.7.azuredatabricks.net" }, others},
	} {
		f := like
		tc.change(&f)
		if got := who.standing(f); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestNamesAsStored(t *testing.T) {
	t.Parallel()
	for stored, sent := range map[string]string{
		"orders": "Orders", "\u00fcber": "U\u0308BER", "a b": "a  b ", "a\u200bb": "ab", "a &amp; b": "a & b", "\ufb01ne": "fine",
	} {
		if !sameText(stored, sent) {
			t.Errorf("%q is not taken for %q", stored, sent)
		}
	}
	for a, b := range map[string]string{"a-b": "a_b", "orders": "orders2", "\u00fcber": "uber"} {
		if sameText(a, b) {
			t.Errorf("%q is taken for %q", a, b)
		}
	}
	for stored, cut := range map[string]bool{"customers": true, "customers of \u2026": true, "cust": false, "suppliers": false} {
		if cutText(stored, "Customers of 2026") != cut {
			t.Errorf("%q: cut %v", stored, !cut)
		}
	}
	for name, n := range map[string]int{"orders": 1, "Orders": 2, "O\u0308rders  x": 3} {
		if forms := nameForms(name); len(forms) != n || forms[0] != name {
			t.Errorf("%q: %q", name, forms)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add("the orders", 40)
	f.Add("&#91;flow-worker 00", 3)
	mine, theirs := testRequest().Key, secondRequest().Key
	f.Fuzz(func(t *testing.T, text string, cut int) {
		if strings.Contains(fold(text), foldedPrefix) {
			t.Skip("refused as a description")
		}
		whole := text + " " + mine.Mark()
		if got, _ := markIn(whole); got != mine.markHex() {
			t.Errorf("%q: %q", whole, got)
		}
		digits, _ := markIn(whole[:max(0, len(whole)-max(0, cut)%48)])
		if !strings.HasPrefix(mine.markHex(), digits) || digits == theirs.markHex() {
			t.Errorf("%q cut by %d: %q", whole, cut, digits)
		}
	})
}
