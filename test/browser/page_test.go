package browser

import (
	"fmt"
	"strings"
	"testing"
)

// sound is what must be true of every page, as an expression that lists what is not.
const sound = `(() => {
	const bad = [];
	const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
	if (wide > 0) bad.push("it is " + wide + " px wider than the window");
	for (const landmark of ["header", "main", "footer", "form[role=search]"])
		if (document.querySelectorAll(landmark).length !== 1) bad.push("not one " + landmark);
	if (document.querySelectorAll("h1").length !== 1) bad.push("not one h1");
	let level = 1;
	for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
		if (Number(h.tagName[1]) > level + 1) bad.push("a level is missing before " + h.textContent);
		level = Number(h.tagName[1]);
	}
	for (const th of document.querySelectorAll("th")) if (!th.scope) bad.push("no scope: " + th.textContent);
	for (const table of document.querySelectorAll("table")) if (!table.querySelector("th[scope=col]")) bad.push("a table without column headers");
	if (/undefined|\[object|NaN/.test(document.body.innerText)) bad.push("something is missing: " + document.body.innerText.match(/.*(undefined|\[object|NaN).*/)[0]);
	const ids = [...document.querySelectorAll("[id]")].map((el) => el.id);
	if (new Set(ids).size !== ids.length) bad.push("an id is there twice: " + ids);
	for (const el of document.querySelectorAll("[aria-labelledby], label[for]"))
		if (!document.getElementById(el.getAttribute("aria-labelledby") ?? el.htmlFor)) bad.push("its label is missing: " + el.outerHTML.slice(0, 80));
	for (const a of document.querySelectorAll("a")) if (!a.textContent.trim() || !a.getAttribute("href")) bad.push("an empty link: " + a.outerHTML);
	for (const a of document.querySelectorAll("#rows a")) if (!a.checkVisibility() || a.getBoundingClientRect().height < 12) bad.push("it can't be seen: " + a.textContent);
	if (document.querySelectorAll("[aria-live], [role=status], [role=alert]").length !== 1) bad.push("not just one live region");
	for (const el of document.querySelectorAll("script:not([src]), style, [style], [onclick]")) bad.push("inline: " + el.outerHTML.slice(0, 80));
	return bad;
})()`

// dim lists texts whose contrast to what is behind them is below 4.5, as the browser has painted them.
const dim = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m[3] ?? 1 }; };
	const light = (rgb) => {
		const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (el) => {
		for (; el; el = el.parentElement) { const c = parse(getComputedStyle(el).backgroundColor); if (c.a === 1) return c.rgb; }
		return [255, 255, 255];
	};
	const bad = new Set();
	let seen = 0;
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const el = texts.currentNode.parentElement;
		if (!texts.currentNode.textContent.trim() || !el.checkVisibility()) continue;
		const [a, b] = [light(parse(getComputedStyle(el).color).rgb), light(behind(el))].sort((x, y) => y - x);
		seen++;
		if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(((a + 0.05) / (b + 0.05)).toFixed(2) + ": " + el.textContent.trim().slice(0, 60));
	}
	return seen < 20 ? ["only " + seen + " texts were seen"] : [...bad];
})()`

func (w *window) assertNone(what, expression string) {
	w.t.Helper()
	var bad []string
	w.eval(expression, &bad)
	for _, b := range bad {
		w.t.Errorf("%s: %s", what, b)
	}
}

// Every page is whole, complains of nothing, has its landmarks and headings, and can be read, light and
// dark, wide and on a phone.
func TestPagesAreSound(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	d.submit("globex", "twice", "Databricks of globex")
	d.submit("acme", "twice", "Databricks of acme")
	pages := map[string]string{ // :: name → path
		"overview": "/", "failed": "/?state=failed&tenant=acme", "throttled": story("globex", "/worker/demo", "demo-throttled"),
		"lost": story("acme", "/worker/demo", "demo-lost"), "refused": story("acme", "/worker/demo", "demo-refused"), "several": "/requests?id=twice",
	}
	for _, dark := range []bool{false, true} {
		for _, width := range []int64{1280, 768, 360} {
			for name, path := range pages {
				scheme := map[bool]string{false: "light", true: "dark"}[dark]
				t.Run(fmt.Sprintf("%s-%s-%d", name, scheme, width), func(t *testing.T) {
					w := open(t, look{dark: dark, width: width})
					w.visit(d.page + path)
					if name != "several" {
						w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
					}
					w.assertNone("not sound", sound)
					w.assertNone("low contrast", dim)
					w.assertAccessible()
					w.shoot(fmt.Sprintf("%s-%s-%d", name, scheme, width))
				})
			}
		}
	}
}

// A page that is not there says so, and the way back works.
func TestNotFound(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	for path, want := range map[string]string{
		story("acme", "/none", "nothing"): "no record", "/requests/nonsense": "no request's address", "/requests?id=nothing+like+it": "No request has exactly this id",
	} {
		w.visit(d.page + path)
		w.forgive("404")
		if got := w.text("main"); !strings.Contains(got, want) {
			t.Errorf("%s shows %q, want %q", path, got, want)
		}
		w.assertNone("not sound", sound)
	}
	w.do(click("nav.back a"))
	w.awaitPage("/")
}

// Whatever is asked for, the worker stays connected and works on.
func TestAskingForTooMuch(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{width: 360})
	for path, want := range map[string][2]string{ // :: path → status code and words
		"/requests?id=" + strings.Repeat("%E6%8E%A5", 460): {"404", "An id has at most 256 bytes"}, "/requests?id=" + strings.Repeat("a", 4096): {"404", "An id has at most 256 bytes"},
		"/requests/acme." + strings.Repeat("a", 4096) + ".b": {"404", "no request's address"}, "/requests/acme..": {"404", "no request's address"},
		"/?state=bogus": {"400", "No such filter"}, "/?tenant=" + strings.Repeat("x.", 2000): {"400", "No such filter"},
	} {
		w.visit(d.page + path)
		w.forgive(want[0])
		if got := w.text("main"); !strings.Contains(got, want[1]) {
			t.Errorf("%.60s shows %q, want %q", path, got, want[1])
		}
		w.assertNone("not sound", sound)
	}
	w.do(click("nav.back a"))
	w.awaitPage("/")
	d.submit("acme", "after", "Databricks after")
	w.await("its row", `document.querySelector('#rows a[href="`+story("acme", "/test", "after")+`"]')`)
}

// What an operator sees needs no script.
func TestWithoutScript(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{noScript: true})
	w.visit(d.page + "/?state=failed")
	if got := w.text("#rows"); !strings.Contains(got, "demo-refused") || strings.Contains(got, "demo-lost") {
		t.Errorf("the failed requests are shown as %q", got)
	}
	if got := w.text("#hold"); got != "" {
		t.Errorf("a button that does nothing is shown: %q", got)
	}
	var refresh string
	w.eval(`document.querySelector("noscript meta")?.httpEquiv ?? ""`, &refresh)
	if refresh != "refresh" {
		t.Errorf("the page does not load itself anew")
	}
	w.do(typeInto("#search", "demo-lost\r"))
	w.awaitPage(story("acme", "/worker/demo", "demo-lost"))
	for _, want := range []string{"No answer to the POST", "adopted", "worker status --tenant acme"} {
		if got := w.text("main"); !strings.Contains(got, want) {
			t.Errorf("the story lacks %q:\n%s", want, got)
		}
	}
	w.shoot("without-script")
}

// Who wants no motion gets none.
func TestReducedMotion(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	for still, want := range map[bool]bool{true: false, false: true} {
		w := open(t, look{still: still})
		w.visit(d.page + "/")
		var moves bool
		w.eval(`[...document.querySelectorAll("*")].some((el) => { const s = getComputedStyle(el);
			return s.animationName !== "none" || s.transitionDuration.split(", ").some((d) => d !== "0s"); })`, &moves)
		if moves != want {
			t.Errorf("still %t: something moves: %t", still, moves)
		}
	}
}
