package event

import (
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestDecodeRefusesControlCharacters(t *testing.T) {
	t.Parallel()
	for at, pointer := range map[string]string{"name": "/data/name", "description": "/data/description",
		"auth.specName": "/data/auth/specName", "auth.params.clusterId": "/data/auth/params/clusterId",
		"auth.params.database": "/data/auth/params/database", "auth.params.catalog": "/data/auth/params/catalog",
		"connectionSpec.version": "/data/connectionSpec/version"} {
		for _, c := range []string{"\x00", "\n", "\x7f", "\u0085"} {
			if c == "\n" && at == "description" {
				continue
			}
			d := decode(nil, with(t, goodData, map[string]any{at: "a" + c + "b"}))
			wantInvalid(t, d, provision.ReasonInvalidRequest, pointer+": holds a control character")
		}
		wantValid(t, decode(nil, with(t, goodData, map[string]any{at: "ä b"})))
	}
	ref := with(t, goodData, map[string]any{"auth.params.accessToken": "vault:a\x00b#c"})
	if decode(nil, ref).Invalid == nil {
		t.Error("a reference may hold a control character")
	}
}

func TestDecodeRefusesInvisibleNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"\u200b", "\u200b\u200d\ufeff", "\u00ad", "\u2060", "\u3164", "\u115f", "\uffa0", "\u2800", "\ufe0f", "\u202e", "\U000e0041"} {
		d := decode(nil, with(t, goodData, map[string]any{"name": name}))
		wantInvalid(t, d, provision.ReasonInvalidRequest, "/data/name: has no visible character")
	}
	for _, name := range []string{"a", "ä", "日本", "٣", "_", "👩\u200d🚀", "ن\u200c", "क्ष", "€"} {
		wantValid(t, decode(nil, with(t, goodData, map[string]any{"name": name})))
	}
}

func TestDecodeRefusesOtherMedia(t *testing.T) {
	t.Parallel()
	for _, media := range []string{"text/xml", "text/xml; charset=utf-8", "application/jsonx", "json", "application/octet-stream"} {
		for name, d := range map[string]provision.Delivery{
			"header":     decode(binary(map[string]string{"Content-Type": media}), goodData),
			"attribute":  decode(binary(map[string]string{"ce-datacontenttype": media}), goodData),
			"structured": decode(nil, structured(t, goodData, map[string]any{"datacontenttype": media})),
		} {
			if d.Invalid == nil {
				t.Errorf("%s %q: valid", name, media)
				continue
			}
			wantInvalid(t, d, provision.ReasonInvalidRequest, "/datacontenttype: the data must be JSON")
		}
	}
	twice := binary(nil)
	twice["Content-Type"] = []string{"text/xml", "application/json"}
	wantInvalid(t, decode(twice, goodData), provision.ReasonInvalidRequest, "/datacontenttype: header Content-Type: given more than once")
	for _, media := range []string{"-", "application/json; charset=utf-8", "application/vnd.x+json", "Application/JSON"} {
		wantValid(t, decode(binary(map[string]string{"Content-Type": media}), goodData))
	}
}
