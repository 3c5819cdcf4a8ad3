package event

import (
	"bytes"
	_ "embed" // the schema
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// createText is the published schema (2020-12) of a request's data. Those of results are beside it.
//
//go:embed schema/connection-create.v1.json
var createText []byte

// schema is the part of JSON Schema that the schema of a request's data is written in. One with another keyword does
// not load. Objects allow no other than their properties.
type schema struct {
	at         string             // the JSON pointer of the value it is for
	Types      types              `json:"type"` // empty means any
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	MinLength  int                `json:"minLength"` // in characters
	MaxLength  *int               `json:"maxLength"`
	Pattern    *regexp.Regexp     `json:"pattern"`
	Enum       []*string          `json:"enum"` // nil stands for null

	// What no value is held against.
	Schema      string `json:"$schema"`
	ID          string `json:"$id"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Format      string `json:"format"`
	Default     any    `json:"default"`
	Additional  *bool  `json:"additionalProperties"` // always false
}

// types are the names of JSON's types, of which a schema may give one alone.
type types []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *types) UnmarshalJSON(text []byte) error {
	if text[0] == '"' {
		text = slices.Concat([]byte("["), text, []byte("]"))
	}
	err := json.Unmarshal(text, (*[]string)(t))
	slices.Sort(*t)
	return err
}

// createSchema is the schema of a request's data. It is never changed.
var createSchema = sync.OnceValue(func() *schema {
	s := &schema{}
	d := json.NewDecoder(bytes.NewReader(createText))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		panic(err) // it is a part of the program
	}
	s.place(atData)
	return s
})

// place says where s and the schemas in it apply.
func (s *schema) place(at string) {
	s.at = at
	for name, below := range s.Properties {
		below.place(under(at, name))
	}
}

// below returns the schema of a member, nil where there is none.
func (s *schema) below(name string) *schema {
	if s == nil {
		return nil
	}
	return s.Properties[name]
}

// dropNulls takes null out of n where it stands for an optional field.
func (s *schema) dropNulls(n *node) {
	n.members = slices.DeleteFunc(n.members, func(m member) bool {
		return m.value.absent() && s.Properties[m.name] != nil && !slices.Contains(s.Required, m.name)
	})
	for _, m := range n.members {
		if below := s.Properties[m.name]; below != nil {
			below.dropNulls(m.value)
		}
	}
}

// wrong says what is wrong with a value itself, empty if nothing is. It does not quote the value.
func (s *schema) wrong(n *node) string {
	got := typeOf(n)
	switch {
	case s.Types != nil && !slices.Contains(s.Types, got):
		if got == "null" {
			return "required; null is the same as leaving it out"
		}
		return "got " + got + ", want " + strings.Join(s.Types, " or ")
	case s.Enum != nil && !s.lists(n):
		return "want one of " + s.choices()
	case got != "string":
		return ""
	}
	switch length := utf8.RuneCountInString(n.text); {
	case length < s.MinLength:
		return fmt.Sprintf("%d characters long; want at least %d", length, s.MinLength)
	case s.MaxLength != nil && length > *s.MaxLength:
		return fmt.Sprintf("%d characters long; want at most %d", length, *s.MaxLength)
	case s.Pattern != nil && !s.Pattern.MatchString(n.text):
		return "must match " + s.Pattern.String()
	}
	return ""
}

// lists reports whether the value is one of the Enum.
func (s *schema) lists(n *node) bool {
	return slices.ContainsFunc(s.Enum, func(v *string) bool {
		return v == nil && n.kind == kindNull || v != nil && n.kind == kindString && *v == n.text
	})
}

func (s *schema) choices() string {
	var words []string
	for _, v := range s.Enum {
		if v != nil { // null is the same as leaving the field out
			words = append(words, strconv.Quote(*v))
		}
	}
	return strings.Join(words, ", ")
}

// typeOf returns the name that JSON Schema has for the type of a value.
func typeOf(n *node) string {
	switch n.kind {
	case kindObject:
		return "object"
	case kindArray:
		return "array"
	case kindString:
		return "string"
	case kindNull:
		return "null"
	case kindTrue, kindFalse:
		return "boolean"
	}
	return "number"
}
