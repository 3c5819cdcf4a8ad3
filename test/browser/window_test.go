package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// look is how a window shows pages.
type look struct {
	dark, noScript, still bool
	width                 int64 // 0 means 1280
}

// window is a browser window that shares nothing with others.
type window struct {
	t   *testing.T
	ctx context.Context

	mu        sync.Mutex
	problems  []string // what the page and the browser complained of; guarded by mu, and so is the rest
	tolerated string
}

// open opens a window. When the test ends, the page must not have complained of anything.
func open(t *testing.T, l look) *window {
	t.Helper()
	tab, closeTab := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(closeTab)
	w := &window{t: t, ctx: tab}
	check(t, chromedp.Listen(tab, w.hear))
	t.Cleanup(func() {
		for _, p := range w.complaints() {
			t.Errorf("the browser complains: %s", p)
		}
	})
	scheme, motion := "light", "no-preference"
	if l.dark {
		scheme = "dark"
	}
	if l.still {
		motion = "reduce"
	}
	width := l.width
	if width == 0 {
		width = 1280
	}
	call(w, cdplog.Enable, cdp.Empty{})
	call(w, runtime.Enable, cdp.Empty{})
	call(w, page.Enable, page.EnableParams{})
	call(w, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 600})
	call(w, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion}}})
	call(w, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: l.noScript})
	return w
}

// call has the browser carry out one command of its protocol.
func call[P, R any](w *window, command cdp.Command[P, R], params P) {
	w.t.Helper()
	_, err := chromedp.Call(w.ctx, command, params)
	check(w.t, err)
}

func (w *window) hear(event any) {
	problem := ""
	switch e := event.(type) {
	case *cdplog.EventEntryAdded: // the Content Security Policy speaks here
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			problem = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		problem = fmt.Sprintf("exception: %+v %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *runtime.EventConsoleAPICalled:
		problem = fmt.Sprintf("console.%s: %v", e.Type, e.Args)
	case *page.EventJavascriptDialogOpening:
		problem = "a dialog: " + e.Message
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if problem != "" && (w.tolerated == "" || !strings.Contains(problem, w.tolerated)) {
		w.problems = append(w.problems, problem)
	}
}

// tolerate leaves out complaints that hold the text, from now on.
func (w *window) tolerate(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tolerated = text
}

func (w *window) complaints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems)
}

// forgive takes back complaints that hold the text, and fails if there is none.
func (w *window) forgive(text string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.problems)
	w.problems = slices.DeleteFunc(w.problems, func(p string) bool { return strings.Contains(p, text) })
	if len(w.problems) == n {
		w.t.Errorf("the browser did not complain of %q", text)
	}
}

func (w *window) do(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		w.t.Fatalf("%v\n%s", err, w.shown())
	}
}

// shown returns where the window is, and what it shows.
func (w *window) shown() string {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("location.href + '\\n' + document.body.innerText"))
	return text
}

// visit loads a page.
func (w *window) visit(url string) {
	w.t.Helper()
	w.do(chromedp.Navigate(url))
}

// eval evaluates an expression of the page's, and stores its value in what v points to, unless that is nil.
func (w *window) eval(expression string, v any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression))
	if err == nil && v != nil {
		err = json.Unmarshal(value, v)
	}
	if err != nil {
		w.t.Fatalf("%.200s: %v\n%s", expression, err, w.shown())
	}
}

// text returns what the first element that the selector finds shows; nothing if it can't be seen.
func (w *window) text(selector string) (text string) {
	w.t.Helper()
	w.eval("(() => { const el = document.querySelector("+quote(selector)+"); return el?.checkVisibility() ? el.innerText : ''; })()", &text)
	return text
}

// await waits until an expression of the page's is true. It looks whenever the page has changed, and so
// it works under the page's own policy.
func (w *window) await(what, expression string) {
	w.t.Helper()
	watch := `new Promise((done) => {
		const test = () => { try { return Boolean(` + expression + `); } catch { return false; } };
		if (test()) return done(true);
		const observer = new MutationObserver(() => { if (test()) { observer.disconnect(); done(true); } });
		observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
	})`
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](watch, chromedp.EvalAwaitPromise)); err != nil {
		w.shoot("waited-" + w.t.Name())
		w.t.Fatalf("waited for %s: %v\n%s", what, err, w.shown())
	}
}

// awaitPage waits until another page is there, whose path begins so.
func (w *window) awaitPage(path string) {
	w.t.Helper()
	loaded := make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	check(w.t, chromedp.Listen(ctx, func(event any) {
		if _, ok := event.(*page.EventLoadEventFired); ok {
			select {
			case loaded <- struct{}{}:
			default:
			}
		}
	}))
	for {
		var at string
		value, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte]("document.readyState === 'complete' ? location.pathname + location.search : ''"))
		if err == nil {
			err = json.Unmarshal(value, &at)
		}
		if err == nil && (at == path || path != "/" && strings.HasPrefix(at, path)) { // an error: it is between two pages
			return
		}
		select {
		case <-loaded:
		case <-ctx.Done():
			w.t.Fatalf("waited for the page %s; the window is at %s", path, at)
		}
	}
}

// press presses keys, as a person without a mouse does.
func (w *window) press(keys string) {
	w.t.Helper()
	w.do(chromedp.KeyEvent(keys))
}

// shoot keeps a picture of the whole page.
func (w *window) shoot(name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	check(w.t, err)
	name = "status-page-" + strings.ReplaceAll(name, "/", "-") + ".png"
	check(w.t, os.MkdirAll(shots, 0o755))
	check(w.t, os.WriteFile(filepath.Join(shots, name), png, 0o644))
}

// quote writes text as JavaScript has it.
func quote(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}
