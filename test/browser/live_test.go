package browser

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

func typeInto(selector, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS(selector), text)
}

// figure is an expression for one of the numbers.
func figure(label string) string {
	return `[...document.querySelectorAll(".figures > div")].find((el) => el.querySelector("dt").textContent === ` + quote(label) +
		`)?.querySelector(".value").textContent`
}

// Numbers and rows change as requests come, and the page is not loaded anew for it.
func TestNumbersMove(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	w.eval(`void (window.stays = true)`, nil)
	var before string
	w.eval(figure("Done"), &before)
	d.submit("acme", "moves-1", "Databricks that moves")
	w.await("another number", figure("Done")+` !== `+quote(before)+` && `+figure("Done"))
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "moves-1")+`"]')`)
	w.await("a bar", `document.querySelector(".chart .done").getAttribute("d").length > 0`)

	w.do(click("#hold")) // from now on nothing changes
	w.eval(figure("Done"), &before)
	d.submit("acme", "moves-2", "Databricks that waits")
	other := open(t, look{})
	other.visit(d.page + "/")
	other.await("its row elsewhere", `document.querySelector('#rows a[href="`+story("acme", "/test", "moves-2")+`"]')`)
	var after string
	if w.eval(figure("Done"), &after); after != before {
		t.Errorf("held still, the number went from %s to %s", before, after)
	}
	w.do(click("#hold"))
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "moves-2")+`"]')`)
	var stayed bool
	if w.eval(`window.stays === true`, &stayed); !stayed {
		t.Error("the page was loaded anew")
	}
}

// A request that has not ended tells what is in its way and what comes next, and the page follows it to its end.
func TestStoryGoesOn(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	d.fault(map[string]any{"operation": "create", "name": "Databricks slow", "times": 2, "effect": "status", "status": 429, "retryAfter": "4s"})
	w := open(t, look{})
	w.visit(d.page + "/")
	d.submit("acme", "slow", "Databricks slow")
	w.visit(d.page + story("acme", "/test", "slow"))
	w.await("a wait", `/throttled/i.test(document.querySelector(".timeline").innerText) && /waiting/.test(document.querySelector(".headline .pill").textContent)`)
	w.await("what comes next", `/sends the POST again/.test(document.querySelector(".next").innerText) && /in \d+ s/.test(document.querySelector(".next").innerText)`)
	if got := w.text(".commands"); !strings.Contains(got, "worker status --tenant acme --source /test --watch slow") {
		t.Errorf("no command to follow it: %s", got)
	}
	w.assertNone("not sound", sound)
	w.assertAccessible()
	w.shoot("story-waiting")
	w.await("its end", `document.querySelector(".headline .pill").textContent === "created" && /It made connection/.test(document.querySelector(".lead").textContent)`)
	w.shoot("story-created")
}

// An answer that never comes: the page says that it is looked up, not repeated.
func TestStoryOfALostAnswer(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	d.fault(map[string]any{"operation": "create", "name": "Databricks hangs", "times": 1, "effect": "hang", "delay": "60s"})
	w := open(t, look{dark: true}) // before it is sent, for its POST lasts three seconds
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	d.submit("globex", "hangs", "Databricks hangs")
	w.await("its row", `/posting/.test(document.querySelector("#latest").parentElement.innerText)`)
	w.shoot("overview-at-work")
	w.do(click(`#rows a[href="` + story("globex", "/test", "hangs") + `"]`))
	w.awaitPage(story("globex", "/test", "hangs"))
	w.await("the doubt", `/may have made a connection/.test(document.querySelector(".timeline").innerText)`)
	w.shoot("story-lost-answer")
	w.await("its end", `["created", "adopted"].includes(document.querySelector(".headline .pill").textContent)`)
}

// A pause can't be missed, and neither can its end.
func TestPausedIsLoud(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{width: 360})
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	if got := w.text(".alarm"); got != "" {
		t.Errorf("it alarms already: %s", got)
	}
	d.run("pause", "--for", "1h")
	w.await("the alarm", `/PAUSED/.test(document.querySelector(".alarm").innerText) && /PAUSED/.test(document.title) && document.querySelector(".alarm").offsetHeight > 40`)
	if got := w.text(".alarm"); !strings.Contains(got, "worker resume") || !strings.Contains(got, "by itself in ") {
		t.Errorf("the alarm is %q", got)
	}
	d.submit("acme", "held-up", "Databricks held up")
	w.await("the queue", figure("Queued")+` === "1"`)
	w.assertNone("not sound", sound)
	w.assertNone("low contrast", dim)
	w.assertAccessible()
	w.shoot("paused-360")
	d.run("resume")
	w.await("the end of the alarm", `document.querySelector(".alarm").innerText === "" && !/PAUSED/.test(document.title)`)
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "held-up")+`"]')`)
}

// A page whose worker stops says that it shows what was, and streams don't keep the worker from stopping.
func TestWorkerStops(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	w.tolerate("ERR_CONNECTION_REFUSED") // it tries to connect anew
	d.stop()
	w.await("a word", `/stopped|No connection/.test(document.getElementById("live").textContent)`)
	w.await("the refusal", `/No connection/.test(document.getElementById("live").textContent)`)
	w.shoot("worker-gone")
}

// Everything can be done with the keyboard alone, and one sees where one is.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	const focus = `(() => { const el = document.activeElement, s = getComputedStyle(el), r = el.getBoundingClientRect();
		if (el === document.body) return "nothing";
		if (s.outlineStyle === "none" || parseFloat(s.outlineWidth) < 2) return "unseen: " + el.outerHTML;
		if (r.width < 8 || r.height < 8 || r.right < 0) return "tiny: " + el.outerHTML;
		return el.id || el.textContent.trim(); })()`
	for _, want := range []string{"Skip to the content", "flow-worker", "search", "Search", "All"} {
		w.press(kb.Tab)
		var at string
		if w.eval(focus, &at); !strings.HasPrefix(at, want) {
			t.Errorf("after Tab the focus is on %q, want %q", at, want)
		}
	}
	w.do(chromedp.Focus(chromedp.CSS("#search")))
	w.press("demo-lost" + kb.Enter)
	w.awaitPage(story("acme", "/worker/demo", "demo-lost"))
	for range 5 { // past the header, to the way back
		w.press(kb.Tab)
	}
	var at string
	if w.eval(focus, &at); at != "Latest requests" {
		t.Errorf("the focus is on %q", at)
	}
	w.press(kb.Enter)
	w.awaitPage("/")

	// A row that has the focus keeps it while others come in above.
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	link := `#rows a[href="` + story("acme", "/worker/demo", "demo-refused") + `"]`
	w.do(chromedp.Focus(chromedp.CSS(link)))
	d.submit("acme", "above", "Databricks above")
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "above")+`"]')`)
	if w.eval(focus, &at); at != "demo-refused" {
		t.Errorf("the focus went to %q", at)
	}
	w.press(kb.Enter)
	w.awaitPage(story("acme", "/worker/demo", "demo-refused"))
	if got := w.text("main"); !strings.Contains(got, "worker retry --tenant acme --source /worker/demo --dry-run demo-refused") {
		t.Errorf("no way to act on it is told:\n%s", got)
	}
}

// The id that one has leads to the story; an id of several, to a choice; a part of one, to what is like it.
func TestSearch(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	d.submit("globex", "both/of them", "Databricks of globex")
	d.submit("acme", "both/of them", "Databricks of acme")
	w := open(t, look{})
	w.visit(d.page + "/")
	w.await("both rows", `document.querySelectorAll('#rows a[href$="both=2Fof=20them"]').length === 2`)
	w.do(typeInto("#search", "  demo-lost "), click("form button"))
	w.awaitPage(story("acme", "/worker/demo", "demo-lost"))
	w.do(typeInto("#search", "both/of them"+kb.Enter))
	w.awaitPage("/requests?id=both")
	if got := w.text("main"); !strings.Contains(got, "2 requests have this id") {
		t.Errorf("got %s", got)
	}
	w.do(click(`a[href="` + story("globex", "/test", "both/of them") + `"]`))
	w.awaitPage(story("globex", "/test", "both/of them"))
	w.do(typeInto("#search", "emo-los"+kb.Enter))
	w.awaitPage("/requests?id=emo-los")
	w.forgive("404")
	if got := w.text("main"); !strings.Contains(got, "demo-lost") || strings.Contains(got, "demo-refused") {
		t.Errorf("got %s", got)
	}
}

// A window that nobody looks at does not listen, and is up to date as soon as somebody does.
func TestHiddenWindowsRest(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	w.visit(d.page + "/")
	w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
	const hide = `(() => { Object.defineProperty(document, "hidden", { get: () => %s, configurable: true }); document.dispatchEvent(new Event("visibilitychange")); })()`
	w.eval(strings.Replace(hide, "%s", "true", 1), nil)
	d.submit("acme", "unseen", "Databricks unseen")
	other := open(t, look{})
	other.visit(d.page + "/")
	other.await("its row elsewhere", `document.querySelector('#rows a[href="`+story("acme", "/test", "unseen")+`"]')`)
	var there bool
	if w.eval(`Boolean(document.querySelector('#rows a[href="`+story("acme", "/test", "unseen")+`"]'))`, &there); there {
		t.Error("a window that is hidden listens")
	}
	w.eval(strings.Replace(hide, "%s", "false", 1), nil)
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "unseen")+`"]')`)
}
