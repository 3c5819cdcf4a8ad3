package flowtest

import (
	"encoding/json"
	"html"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Habit is one way to store a connection otherwise than it was sent: see EffectStore.
type Habit string

// The habits.
const (
	HabitLowerIDs          Habit = "ids_lower"          // the connection spec's id in small letters
	HabitLowerNames        Habit = "name_lower"         // the name in small letters
	HabitComposedNames     Habit = "name_nfc"           // the name in Unicode's form NFC
	HabitPlainNames        Habit = "name_blanks"        // single blanks, none at the ends, no invisible characters
	HabitCutNames          Habit = "name_cut"           // at most Bytes bytes of the name
	HabitLowerDescriptions Habit = "description_lower"  // the description in small letters
	HabitUpperDescriptions Habit = "description_upper"  // in capitals
	HabitPlainDescriptions Habit = "description_blanks" // as name_blanks
	HabitEscaped           Habit = "description_html"   // escaped for HTML, brackets too
)

// habits says what each does to a connection.
var habits = map[Habit]func(*conn, int){
	HabitLowerIDs:          func(c *conn, _ int) { c.specID = strings.ToLower(c.specID) },
	HabitLowerNames:        func(c *conn, _ int) { c.name = strings.ToLower(c.name) },
	HabitComposedNames:     func(c *conn, _ int) { c.name = norm.NFC.String(c.name) },
	HabitPlainNames:        func(c *conn, _ int) { c.name = singleBlanks(c.name) },
	HabitCutNames:          func(c *conn, n int) { c.name = shortened(c.name, n) },
	HabitLowerDescriptions: func(c *conn, _ int) { c.description = strings.ToLower(c.description) },
	HabitUpperDescriptions: func(c *conn, _ int) { c.description = strings.ToUpper(c.description) },
	HabitPlainDescriptions: func(c *conn, _ int) { c.description = singleBlanks(c.description) },
	HabitEscaped: func(c *conn, _ int) {
		c.description = strings.NewReplacer("[", "&#91;", "]", "&#93;").Replace(html.EscapeString(c.description))
	},
}

func habitNames() []Habit { return slices.Sorted(maps.Keys(habits)) }

func singleBlanks(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// shortened returns at most the first n bytes of s, never a part of a character.
func shortened(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// omittable are the fields of a connection that an EffectOmit may leave out of lists.
var omittable = []string{"name", "description", "connectionSpec", "state", "auth", "createdAt", "updatedAt", "etag", "version"}

// without returns v without some of its fields.
func (v view) without(fields []string) any {
	if len(fields) == 0 {
		return v
	}
	b, _ := json.Marshal(v) // as an answer without faults does
	var members map[string]any
	_ = json.Unmarshal(b, &members)
	for _, f := range fields {
		delete(members, f)
	}
	return members
}
