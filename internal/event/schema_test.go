package event

import (
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checkSchema fails unless our reading of the schema says the same of a value as a whole validator does.
func checkSchema(t testing.TB, n *node, whole *jsonschema.Schema) {
	t.Helper()
	err := whole.Validate(n.plain())
	if ours := fits(n, createSchema()); ours != (err == nil) {
		t.Fatalf("%s: fits = %v, the validator says %v", n.raw, ours, err)
	}
}

func fits(n *node, s *schema) bool {
	var bad violations
	dataCheck{bad: &bad}.schema(n, s)
	if n.kind == kindObject {
		for name, below := range s.Properties {
			if value := n.member(name); value != nil && !fits(value, below) {
				return false
			}
		}
	}
	return len(bad) == 0
}

func TestSchemaIsReadAsAValidatorReadsIt(t *testing.T) {
	t.Parallel()
	whole := strict(t, "create")
	texts := append(printedTexts(t), jsonTexts...)
	for _, path := range append(knownFields, "auth", "auth.params", "connectionSpec", "auth.params.accessToken", "more", "auth.more", "auth.params.more", "connectionSpec.more") {
		for _, value := range []any{absent{}, nil, true, 0, 1.5, "", "a", "Prod", "vault:a", "adopt", "a\n", "日本", goodData, []any{}, []any{"a"}, map[string]any{}, map[string]any{"id": "a"},
			"E9D7EC6B-0873-4E57-AD21-B3A7C65E310B"} {
			texts = append(texts, with(t, goodData, map[string]any{path: value}))
		}
	}
	for _, text := range texts {
		if n, err := parse([]byte(text)); err == nil {
			checkSchema(t, n, whole)
		}
	}
}
