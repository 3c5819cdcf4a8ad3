package event

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// otherBindings returns a binary event's headers as a bridge from Kafka, AMQP or JMS leaves them.
func otherBindings() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for _, prefix := range []string{"ce_", "Ce_", "CE_", "cloudEvents_"} {
		out[prefix] = map[string][]string{}
		for name, values := range binary(nil) {
			if attr, ok := strings.CutPrefix(strings.ToLower(name), attributePrefix); ok {
				name = prefix + attr
			}
			out[prefix][name] = values
		}
	}
	return out
}

// A request that comes over a bridge from another broker keeps its identity, and so does its dead letter.
func TestHeadersOfOtherBindings(t *testing.T) {
	t.Parallel()
	want := decode(binary(map[string]string{"ce-id": "order%20100%25"}), goodData)
	for prefix, headers := range otherBindings() {
		headers[prefix+"id"] = []string{"order%20100%25"}
		got := decode(headers, goodData)
		if diff := cmp.Diff(want, got); diff != "" || got.Invalid != nil || got.Request.Key.ID != "order 100%" {
			t.Errorf("%s: %s", prefix, diff)
		}
		kept := decoder.DeadLetter(letter(headers, goodData)).Headers
		if kept["ce-id"] == nil || kept["ce-source"] == nil || kept["ce-type"] == nil || kept["ce-specversion"] == nil || kept[HeaderRedacted] != nil {
			t.Errorf("%s: a dead letter keeps %v", prefix, kept)
		}
		both := maps.Clone(headers)
		maps.Copy(both, binary(map[string]string{"ce-id": "order%20100%25"}))
		if diff := cmp.Diff(want, decode(both, goodData)); diff != "" {
			t.Errorf("%s and ce-, the same: %s", prefix, diff)
		}
		maps.Copy(both, binary(map[string]string{"ce-id": "other"}))
		wantInvalid(t, decode(both, goodData), provision.ReasonInvalidRequest, "/id: given more than once", prefix+"id", "ce-id")
		retry := map[string][]string{HeaderRetry: {"2"}, prefix + "id": {"a"}, prefix + "source": {"b"}}
		if got := decode(retry, goodData).Request; got.Key.ID != "a" || got.Key.Source != "b" || got.Retry != 2 {
			t.Errorf("%s: a retry is %+v", prefix, got)
		}
	}
}
