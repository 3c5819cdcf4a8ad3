// Package canary makes secrets that are like nothing else, and looks for them in what
// a program wrote, in the spellings that it knows. It is for tests, and knows nothing of how the
// program keeps its secrets.
package canary

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// New returns a secret that was never there before: letters and digits, and here and there one of the
// characters that encodings change. It is printable ASCII without blanks, so it can be sent as a header.
func New() string {
	var b strings.Builder
	for _, c := range `/+=&"<\%` {
		b.WriteString(rand.Text()[:6])
		b.WriteRune(c)
	}
	return b.String() + Plain()
}

// Plain returns a secret of letters and digits only.
func Plain() string { return rand.Text() + "k7" + strings.ToLower(rand.Text()[:4]) } // with small letters and digits, whatever chance brings

// Tokens returns new secrets that anybody can recognize, by the name of their issuer or form.
func Tokens() map[string]string {
	in64 := base64.RawURLEncoding.EncodeToString
	return map[string]string{
		"Databricks":          "dapi" + hexDigits(),
		"Databricks in Azure": "dapi" + hexDigits() + "-2",
		"Databricks OAuth":    "dose" + hexDigits(),
		"Adobe":               "p8e-" + Plain(),
		"JSON Web Token":      in64([]byte(`{"alg":"RS256","kid":"ims"}`)) + "." + in64([]byte(`{"id":"`+Plain()+`"}`)) + "." + Plain(),
		"Vault":               "hvs." + Plain(),
		"NATS":                "SU" + (rand.Text() + rand.Text() + rand.Text())[:56],
		"Entra ID":            rand.Text()[:3] + "8Q~" + (Plain() + Plain())[:34],
		"address":             "https://user:" + Plain() + "@host.example",
		"bearer":              "Bearer " + Plain(),
		"basic":               "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+Plain())),
		"PEM":                 "-----BEGIN PRIVATE KEY-----" + Plain() + "-----END PRIVATE KEY-----",
	}
}

func hexDigits() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Spelling is a way to write a secret.
type Spelling struct {
	Write func(secret string) string
	Block int // bytes of what Write returns that are a find: some eight bytes of the secret
}

// Spellings are all that are hunted for, by name. Case never matters.
var Spellings = map[string]Spelling{
	"plain":                   {func(s string) string { return s }, 8},
	"query":                   {url.QueryEscape, 12},
	"path":                    {url.PathEscape, 12},
	"percent":                 {func(s string) string { return each(s, "%%%02x") }, 24},
	"JSON":                    {inJSON, 12},
	"JSON, slashes":           {func(s string) string { return strings.ReplaceAll(inJSON(s), "/", `\/`) }, 12},
	"JSON, all":               {func(s string) string { return each(s, `\u%04x`) }, 48},
	"hex":                     {func(s string) string { return hex.EncodeToString([]byte(s)) }, 16},
	"base64":                  {inBase64(base64.StdEncoding, 0), 12},
	"base64 from byte 1":      {inBase64(base64.StdEncoding, 1), 12},
	"base64 from byte 2":      {inBase64(base64.StdEncoding, 2), 12},
	"base64 raw":              {inBase64(base64.RawStdEncoding, 0), 12},
	"base64url":               {inBase64(base64.URLEncoding, 0), 12},
	"base64url from byte 1":   {inBase64(base64.URLEncoding, 1), 12},
	"base64url from byte 2":   {inBase64(base64.URLEncoding, 2), 12},
	"base64url raw":           {inBase64(base64.RawURLEncoding, 0), 12},
	"base64, slashes escaped": {func(s string) string { return url.QueryEscape(inBase64(base64.StdEncoding, 0)(s)) }, 12},
}

func each(s, format string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, format, s[i])
	}
	return b.String()
}

// inJSON never fails on a string.
func inJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b[1 : len(b)-1])
}

// inBase64 returns those digits that show nothing but the secret, where so many bytes stand before it.
func inBase64(enc *base64.Encoding, before int) func(string) string {
	return func(s string) string {
		digits := enc.EncodeToString([]byte(strings.Repeat("\x00", before) + s))
		return digits[(8*before+5)/6 : 8*(before+len(s))/6]
	}
}

// Hit is a secret, or a long part of one, that was found where it must not be.
type Hit struct {
	Sink, Canary, Spelling string
	Around                 string // what stands around it
}

// Hunt looks for secrets. Its methods are safe for concurrent use. Use NewHunt.
type Hunt struct {
	names []string // of the canaries, sorted

	mu     sync.Mutex
	blocks map[int]map[string]origin // :: length → folded block of a spelling → where it is from
	first  []bool                    // by slot, of any block
	sinks  map[string]*sink
	hits   []Hit
}

// origin says what a block is a part of.
type origin struct{ canary, spelling string }

// sink is a place that was searched.
type sink struct{ bytes, texts, hits int }

// NewHunt returns a hunt for the secrets, which go by their names.
func NewHunt(canaries map[string]string) *Hunt {
	h := &Hunt{
		names: slices.Sorted(maps.Keys(canaries)), blocks: map[int]map[string]origin{}, sinks: map[string]*sink{}, first: make([]bool, 1<<slotBits),
	}
	for name, secret := range canaries {
		for spelling, s := range Spellings {
			h.addBlocks(origin{name, spelling}, fold(s.Write(secret)), s.Block)
		}
	}
	return h
}

// addBlocks cuts a spelling into blocks. Whatever part of it leaks and is twice as long as a block
// holds a whole one.
func (h *Hunt) addBlocks(from origin, text string, size int) {
	for ; len(text) >= size; text = text[size:] {
		if h.blocks[size] == nil {
			h.blocks[size] = map[string]origin{}
		}
		h.blocks[size][text[:size]] = from
		h.first[slot(text)] = true
	}
}

// slotBits makes so many slots that few of them are of any block, and looking them up stays cheap.
const slotBits = 20

// head is how many bytes choose a slot. No block is shorter.
const head = 4

// slot returns a number made of the first bytes of t: most places of a text are ruled out by it.
func slot(t string) uint32 {
	return (uint32(t[0]) | uint32(t[1])<<8 | uint32(t[2])<<16 | uint32(t[3])<<24) * 2654435761 >> (32 - slotBits)
}

// Search looks through one text of a sink, for all secrets but those named, which belong there. It returns
// how many it found; one that stands there in several spellings or parts counts once.
func (h *Hunt) Search(sinkName, text string, but ...string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sinks[sinkName]
	if s == nil {
		s = &sink{}
		h.sinks[sinkName] = s
	}
	s.bytes += len(text)
	s.texts++
	found := map[string]bool{}
	low := fold(text)
	for i := 0; i+head <= len(low); i++ {
		if !h.first[slot(low[i:])] {
			continue
		}
		for size, blocks := range h.blocks {
			if i+size > len(low) {
				continue
			}
			if from, ok := blocks[low[i:i+size]]; ok && !found[from.canary] && !slices.Contains(but, from.canary) {
				found[from.canary] = true
				h.hits = append(h.hits, Hit{sinkName, from.canary, from.spelling, text[max(0, i-80):min(len(text), i+size+40)]})
			}
		}
	}
	s.hits += len(found)
	return len(found)
}

// Hits returns everything that was found.
func (h *Hunt) Hits() []Hit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.hits)
}

// Searched returns how many bytes of a sink were searched.
func (h *Hunt) Searched(sinkName string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sinks[sinkName]; s != nil {
		return s.bytes
	}
	return 0
}

// Report returns a table of what was searched, for what, and with which result.
func (h *Hunt) Report() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	total := sink{}
	for _, name := range slices.Sorted(maps.Keys(h.sinks)) {
		s := h.sinks[name]
		fmt.Fprintf(&b, "%-34s %8d texts %10d bytes %4d hits\n", name, s.texts, s.bytes, s.hits)
		total.texts, total.bytes, total.hits = total.texts+s.texts, total.bytes+s.bytes, total.hits+s.hits
	}
	fmt.Fprintf(&b, "%-34s %8d texts %10d bytes %4d hits\n", "all", total.texts, total.bytes, total.hits)
	fmt.Fprintf(&b, "%d sinks × %d canaries in %d spellings: %s", len(h.sinks), len(h.names), len(Spellings), strings.Join(h.names, ", "))
	return b.String()
}

// fold returns t with its ASCII letters in lower case.
func fold(t string) string {
	b := []byte(t)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
