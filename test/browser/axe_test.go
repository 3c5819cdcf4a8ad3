package browser

import (
	"context"
	"encoding/json"
	"os"
	"sync"

	"github.com/chromedp/chromedp"
)

// axe is the source of axe-core, which looks for faults of accessibility; empty where `npm ci` was not run.
var axe = sync.OnceValue(func() string {
	source, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		return ""
	}
	return string(source)
})

// assertAccessible has axe-core look at the page, by the rules of WCAG 2.2 AA and its own.
func (w *window) assertAccessible() {
	w.t.Helper()
	if axe() == "" {
		w.t.Log("axe-core is not here; run `npm ci --ignore-scripts` in test/browser to have it look, too")
		return
	}
	const run = `axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then((found) => JSON.stringify({
		passed: found.passes.length,
		bad: found.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html).join(" | ").slice(0, 400)),
	}))`
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Steps(chromedp.Evaluate[chromedp.Void](axe()))); err != nil {
		w.t.Fatal(err)
	}
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](run, chromedp.EvalAwaitPromise))
	check(w.t, err)
	var found struct {
		Passed int
		Bad    []string
	}
	check(w.t, json.Unmarshal([]byte(text), &found))
	for _, bad := range found.Bad {
		w.t.Errorf("not accessible: %s", bad)
	}
	if found.Passed < 20 {
		w.t.Errorf("only %d rules were passed", found.Passed)
	}
}
