package ops

import (
	"io/fs"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// palette reads the variables of one block of the style.
func palette(t *testing.T, block string) map[string]string {
	t.Helper()
	colours := map[string]string{} // :: name → #rrggbb
	for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6})\b`).FindAllStringSubmatch(block, -1) {
		colours[m[1]] = m[2]
	}
	if len(colours) < 20 {
		t.Fatalf("only %d colours", len(colours))
	}
	return colours
}

// luminance is WCAG's relative luminance of #rrggbb.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	channel := func(i int) float64 {
		n, err := strconv.ParseUint(colour[i:i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		v := float64(n) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*channel(1) + 0.7152*channel(3) + 0.0722*channel(5)
}

func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func TestContrastIsMeasured(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]float64{{"#000000", "#ffffff"}: 21, {"#777777", "#ffffff"}: 4.48, {"#123456", "#123456"}: 1} {
		if got := contrast(t, pair[0], pair[1]); math.Abs(got-want) > 0.01 {
			t.Errorf("%v: %.2f, want %.2f", pair, got, want)
		}
	}
}

// Every text can be read on what is behind it, and every mark seen, in both schemes. A browser's test looks
// at the pages as they are painted; this one knows the states that it does not meet.
func TestContrast(t *testing.T) {
	t.Parallel()
	css := file(t, "style.css")
	light, rest, _ := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	dark, _, _ := strings.Cut(rest, "}\n}")
	text := map[string][]string{ // :: background → colours of texts on it
		"page": {"text", "muted", "link", "plain"}, "card": {"text", "muted", "link", "good", "bad", "odd", "plain"}, "code-back": {"text", "muted"},
		"good-back": {"good"}, "bad-back": {"bad"}, "odd-back": {"odd"}, "plain-back": {"plain"}, "alarm": {"alarm-text"}, "loud": {"loud-text"}, "link": {"card"},
	}
	marks := map[string][]string{"card": {"focus", "done-bar", "failed-bar", "good", "bad", "odd"}, "page": {"focus", "muted"}}
	for scheme, block := range map[string]string{"light": light, "dark": dark} {
		colours := palette(t, block)
		for least, pairs := range map[float64]map[string][]string{4.5: text, 3: marks} {
			for back, fronts := range pairs {
				for _, front := range fronts {
					if colours[back] == "" || colours[front] == "" {
						t.Fatalf("%s: no %s or %s", scheme, back, front)
					}
					if c := contrast(t, colours[front], colours[back]); c < least {
						t.Errorf("%s: %s on %s has a contrast of %.2f, want %v", scheme, front, back, c, least)
					}
				}
			}
		}
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	b, err := fs.ReadFile(web, "web/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The pages need nothing from elsewhere, have no script or style in line, and the script makes no markup.
func TestWebIsStrict(t *testing.T) {
	t.Parallel()
	files, err := fs.ReadDir(web, "web")
	if err != nil || len(files) != 7 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		text := strings.ReplaceAll(file(t, f.Name()), `xmlns="http://www.w3.org/2000/svg"`, "")
		for _, bad := range []string{"http://", "https://", "url(", "@import", " style=", " onclick", "<style", "javascript:", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "unsafe"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %q", f.Name(), bad)
			}
		}
		if strings.HasSuffix(f.Name(), ".html") && strings.Count(text, "<script") != strings.Count(text, `<script src="/app.js" defer></script>`) {
			t.Errorf("%s has another script", f.Name())
		}
	}
	if w := ask(NewStatusHandler(&Status{}, StatusOptions{}), "GET", "/app.js"); w.Code != 200 || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// What the script is told to fill, by the elements' own attributes, is what the server sends.
func TestTheScriptFindsWhatIsSent(t *testing.T) {
	t.Parallel()
	h, _ := library(record("r-1", "created"))
	for page, target := range map[string]string{"/": "/events", storyURL(key("r-1")): storyURL(key("r-1")) + "/events"} {
		body := ask(h, "GET", page).Body.String()
		if !strings.Contains(body, `data-stream="`+target+`"`) {
			t.Errorf("%s does not listen to %s", page, target)
		}
	}
	for name, sent := range map[string]any{"overview.html": overview{}, "request.html": storyPage{}} {
		has := map[string]bool{}
		fields(reflect.TypeOf(sent), has)
		for _, m := range regexp.MustCompile(`data-(text|each|attr)="([^"]+)"`).FindAllStringSubmatch(file(t, name)+file(t, "layout.html"), -1) {
			for _, want := range strings.Fields(m[2]) {
				if m[1] == "attr" {
					want = want[strings.LastIndex(want, ":")+1:]
				}
				if !has[want] && !strings.Contains(file(t, "layout.html"), m[0]) {
					t.Errorf("%s asks for %s, which is not sent", name, want)
				}
			}
		}
		for _, top := range []string{"Title", "Ready", "Tone", "Alarm", "Remedy", "Loud", "Uptime", "Now"} {
			if !has[top] {
				t.Errorf("%s: the header asks for %s, which is not sent", name, top)
			}
		}
	}
}

// fields collects the names of a type's fields, and of theirs.
func fields(of reflect.Type, names map[string]bool) {
	switch of.Kind() {
	case reflect.Slice:
		fields(of.Elem(), names)
	case reflect.Struct:
		for i := range of.NumField() {
			names[of.Field(i).Name] = true
			fields(of.Field(i).Type, names)
		}
	}
}
