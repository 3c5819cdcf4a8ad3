package event

import (
	"encoding/json"
	"unicode/utf8"
)

// parseTop reads the top level of what parse found too large or too deep, so that its author can be
// answered by name. Objects and arrays below it are nodes without content. It returns nil where even
// the top level is too much.
func parseTop(src []byte) *node {
	if !utf8.Valid(src) || !json.Valid(src) {
		return nil
	}
	s := scanner{src: src, shallow: true}
	root, err := s.value(1)
	if err != nil {
		return nil
	}
	return root
}

// skipNested passes over an object or array and all that is in it.
func (s *scanner) skipNested() {
	for depth := 0; ; {
		switch s.src[s.pos] {
		case '"':
			s.skipString()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if s.pos++; depth == 0 {
			return
		}
	}
}
