package browser

import (
	"strings"
	"testing"
)

// Names and messages that others choose are shown as what they are: they run nothing, hide nothing, and
// turn no text around.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	const (
		script  = `<script>alert("id")</script><img src=x onerror=alert(1)>`
		turned  = "txt.\u202eexe\u2066\u200b"
		message = "</bdi></td><svg onload=alert(2)> \u001b[31m \u202edesrever"
	)
	d.fault(map[string]any{"operation": "create", "namePrefix": `"><script>`, "effect": "bad_credentials", "message": message})
	d.submit("acme", script, `"><script>alert("name")</script>{{.Version}}${1+1}`)
	d.submit("acme", turned, "turned \u202e around")
	d.submit("acme", "javascript:alert(3)", "Databricks javascript:alert(4)")
	for _, path := range []string{"/", story("acme", "/test", script), story("acme", "/test", turned), "/requests?id=" + "%3Cscript%3Ealert(5)%3C/script%3E%22onfocus=%22alert(6)"} {
		w := open(t, look{})
		w.visit(d.page + path)
		if strings.Contains(path, "?") {
			w.forgive("404")
		} else {
			w.await("the live mark", `document.getElementById("live").textContent === "Live"`)
		}
		if path == "/" {
			w.await("the rows", `document.querySelectorAll('#rows a[href^="/requests/acme.=2Ftest."]').length === 3`)
			if got := w.text("#rows"); !strings.Contains(got, script) || !strings.Contains(got, `txt.\u202eexe\u2066\u200b`) {
				t.Errorf("the names are not shown as they are:\n%s", got)
			}
		}
		if path == story("acme", "/test", script) {
			w.await("its end", `/failed/.test(document.querySelector(".headline .pill").textContent)`)
			got := w.text("main")
			for _, want := range []string{script, `"><script>alert("name")</script>{{.Version}}${1+1}`, "</bdi></td><svg onload=alert(2)>",
				`worker status --tenant acme --source /test '<script>alert("id")</script><img src=x onerror=alert(1)>'`} {
				if !strings.Contains(got, want) {
					t.Errorf("%s lacks %q:\n%s", path, want, got)
				}
			}
			w.shoot("hostile-story")
		}
		var foreign []string
		w.eval(`[...document.querySelectorAll("script:not([src='/app.js']), img, svg:not([role=img]), [onerror], [onload], [onfocus], iframe")].map((el) => el.outerHTML)`, &foreign)
		for _, f := range foreign {
			t.Errorf("%s: a name became markup: %s", path, f)
		}
		var turning bool
		if w.eval(`/[\u202a-\u202e\u2066-\u2069\u200b\u0000-\u0008\u000b-\u001f\u007f-\u009f]/.test(document.documentElement.innerHTML + document.title)`, &turning); turning {
			t.Errorf("%s: characters that turn or hide text are in the page", path)
		}
		w.assertNone("not sound", sound)
	}
}

// The policy holds in the browser: what is put into the page by a script is not run, and text does not
// become markup.
func TestPolicyHolds(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	w := open(t, look{})
	w.visit(d.page + "/")
	var got string
	w.eval(`(() => { try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); return "markup was taken"; } catch (e) { return e.name; } })()`, &got)
	if got != "TypeError" {
		t.Errorf("text became markup: %s", got)
	}
	w.forgive("TrustedHTML")
	w.eval(`(() => { const el = document.createElement("img"); el.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw="; document.body.append(el); })()`, nil)
	w.await("the refusal", `document.querySelector("img").complete`)
	w.forgive("img-src")
}
