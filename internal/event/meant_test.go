package event

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// An event whose specversion is missing or misspelled is one for all that, with its own identity and without
// complaints about its attributes as if they were data.
func TestAnEventWithoutSpecversion(t *testing.T) {
	t.Parallel()
	json := map[string][]string{HeaderContentType: {ContentType}}
	for name, c := range map[string]struct {
		headers map[string][]string
		changes map[string]any
		part    string
	}{
		"without":            {nil, map[string]any{"specversion": absent{}}, `/specversion: required; it is missing: every event has "specversion":"1.0"`},
		"null":               {nil, map[string]any{"specversion": nil}, "/specversion: required"},
		"specVersion":        {nil, map[string]any{"specversion": absent{}, "specVersion": "1.0"}, `/specversion: required; it was sent as "specVersion"`},
		"with its media":     {json, map[string]any{"specversion": absent{}}, "it is missing"},
		"without type, too":  {nil, map[string]any{"specversion": absent{}, "type": absent{}}, "/type: required"},
		"in capitals":        {nil, map[string]any{"specversion": absent{}, "type": absent{}, "SpecVersion": "1.0", "Type": TypeCreate}, `/type: required; it was sent as "Type"`},
		"its data in base64": {nil, map[string]any{"specversion": absent{}, "data": absent{}, "data_base64": base64.StdEncoding.EncodeToString([]byte(goodData))}, "it is missing"},
	} {
		body := structured(t, goodData, c.changes)
		got := decode(c.headers, body)
		wantInvalid(t, got, provision.ReasonInvalidRequest, c.part)
		if n := strings.Count(got.Invalid.Message, "; /"); n > 1 {
			t.Errorf("%s: %s", name, got.Invalid.Message)
		}
		if want := decode(nil, structured(t, goodData, nil)).Request.Key; got.Request.Key != want {
			t.Errorf("%s: named %v, want %v", name, got.Request.Key, want)
		}
	}
	if got := decode(nil, structured(t, goodData, map[string]any{"specversion": absent{}, "id": absent{}})); got.Request.Key.ID == "" || got.Request.Key.Source != bareSource {
		t.Errorf("without an id it is named %v", got.Request.Key)
	}
	if got := decode(nil, goodData); got.Invalid != nil {
		t.Errorf("bare data: %v", got.Invalid)
	}
}

// A batch is named as one, whatever is said of its type.
func TestABatchIsNamed(t *testing.T) {
	t.Parallel()
	event := structured(t, goodData, nil)
	for _, body := range []string{"[" + event + "]", "[" + event + "," + event + "]", "[" + goodData + "]", "[]"} {
		for _, media := range []string{"", ContentType, "application/json"} {
			got := decode(map[string][]string{HeaderContentType: {media}}, body)
			wantInvalid(t, got, provision.ReasonInvalidRequest, "send each one as a message of its own")
			if strings.Contains(got.Invalid.Message, "required") {
				t.Errorf("%s: %s", media, got.Invalid.Message)
			}
		}
	}
}

// A token in base64 is one in every spelling of base64.
func TestTokensInAnyBase64(t *testing.T) {
	t.Parallel()
	data := with(t, goodData, map[string]any{"auth.params.accessToken": "hunter2~?~?~?", "name": "n~?>"})
	for len(data)%3 != 1 {
		data += " "
	}
	for name, encoding := range map[string]*base64.Encoding{
		"std": base64.StdEncoding, "unpadded": base64.RawStdEncoding, "url": base64.URLEncoding, "url unpadded": base64.RawURLEncoding,
	} {
		text := encoding.EncodeToString([]byte(data))
		for form, body := range map[string]string{
			"data_base64": structured(t, "{}", map[string]any{"data": absent{}, "data_base64": text}),
			"data":        structured(t, "{}", map[string]any{"data": text}),
			"bare":        `"` + text + `"`,
			"in lines":    structured(t, "{}", map[string]any{"data": text[:76] + "\r\n" + text[76:]}),
		} {
			got := decode(nil, body)
			wantInvalid(t, got, provision.ReasonPlaintextSecret)
			if strings.Contains(got.Invalid.Message, "hunter2") {
				t.Errorf("%s, %s: %s", name, form, got.Invalid.Message)
			}
			if name == "std" && form == "data_base64" {
				continue // it is taken, and its token redacted in place
			}
			if kept := decoder.DeadLetter(letter(nil, body)); strings.Contains(string(kept.Body), text[:40]) {
				t.Errorf("%s, %s: kept", name, form)
			}
		}
	}
}

// A time in another spelling is refused with the one to send.
func TestTimesToSendAreQuoted(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]string{
		" 2026-11-22T03:00:00Z ": "2026-11-22T03:00:00Z", "2026-11-22t03:00:00z": "2026-11-22T03:00:00Z", "2026-11-22T03:00:00+0100": "2026-11-22T03:00:00+01:00",
		"2026-11-22 03:00:00Z": "2026-11-22T03:00:00Z", "2026-11-22T03:00:00.5+0000": "2026-11-22T03:00:00.5Z",
	} {
		wantInvalid(t, decode(nil, structured(t, goodData, map[string]any{"expirytime": sent})), provision.ReasonInvalidRequest, "/expirytime: not a time", `; send "`+want+`"`)
	}
	for _, sent := range []string{"tomorrow", "2026-11-22", "2026-13-22T03:00:00Z"} {
		if got := checkTime(sent); got == "" || strings.Contains(got, "; send") {
			t.Errorf("%q: %s", sent, got)
		}
	}
}

func TestANameWithAByteOrderMark(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"\ufeffn", "n\ufeff"} {
		wantInvalid(t, decode(nil, with(t, goodData, map[string]any{"name": name})), provision.ReasonInvalidRequest, "/data/name: has a byte order mark")
	}
}
