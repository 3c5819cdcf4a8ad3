package flowtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// redactForm returns a form without its client_secret; an unreadable one becomes all secret.
func redactForm(form string) string {
	values, err := url.ParseQuery(form)
	if err != nil {
		return provision.Redacted
	}
	if values.Has("client_secret") {
		values.Set("client_secret", provision.Redacted)
	}
	return values.Encode()
}

// jsonRedactor copies JSON and leaves out secrets.
type jsonRedactor struct {
	in      []byte
	out     bytes.Buffer
	copied  int // how much of in is dealt with
	secrets map[string]bool
	inPatch bool // "value" may hold a secret when it is a text
	token   provision.Sensitive

	objects []bool // :: nesting → is it an object
	wantKey bool   // the next text is a key
	key     string // the last key
	hidden  int    // nesting below which everything is secret, 0: nothing
}

// redactJSON returns body with every value of a field named in secrets replaced, and the value of
// accessToken. A body that is not JSON is wholly left out, for nobody knows what it holds.
func redactJSON(body []byte, secrets map[string]bool, inPatch bool) ([]byte, provision.Sensitive) {
	r := &jsonRedactor{in: body, secrets: secrets, inPatch: inPatch}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for {
		before := int(dec.InputOffset())
		tok, err := dec.Token()
		if err == io.EOF && len(r.objects) == 0 {
			r.out.Write(body[r.copied:])
			return r.out.Bytes(), r.token
		}
		if err != nil {
			return nil, provision.Sensitive{}
		}
		r.next(tok, before, int(dec.InputOffset()))
	}
}

// next deals with the token that ends at end; what lies between it and the one before begins at start.
func (r *jsonRedactor) next(tok json.Token, start, end int) {
	if d, ok := tok.(json.Delim); ok {
		r.delim(d)
		return
	}
	if r.wantKey {
		r.key, _ = tok.(string) // the decoder allows nothing else
		r.wantKey = false
		return
	}
	if r.secret(tok) {
		if s, ok := tok.(string); ok && r.key == "accessToken" {
			r.token = provision.NewSensitive(s)
		}
		start += len(r.in[start:end]) - len(bytes.TrimLeft(r.in[start:end], " \t\r\n,:"))
		r.out.Write(r.in[r.copied:start])
		r.out.WriteString(`"` + provision.Redacted + `"`)
		r.copied = end
	}
	r.valueDone()
}

// secret reports whether the value that was just read has to go.
func (r *jsonRedactor) secret(tok json.Token) bool {
	if r.hidden > 0 {
		return true
	}
	inObject := len(r.objects) > 0 && r.objects[len(r.objects)-1]
	_, text := tok.(string)
	return inObject && (r.secrets[r.key] || r.inPatch && text && r.key == "value")
}

func (r *jsonRedactor) delim(d json.Delim) {
	switch d {
	case '{', '[':
		if r.hidden == 0 && len(r.objects) > 0 && r.objects[len(r.objects)-1] && r.secrets[r.key] {
			r.hidden = len(r.objects) + 1
		}
		r.objects = append(r.objects, d == '{')
		r.wantKey = d == '{'
	default:
		if r.hidden == len(r.objects) {
			r.hidden = 0
		}
		r.objects = r.objects[:len(r.objects)-1]
		r.valueDone()
	}
}

// valueDone prepares for what follows a value: a key, inside an object.
func (r *jsonRedactor) valueDone() {
	r.wantKey = len(r.objects) > 0 && r.objects[len(r.objects)-1]
}
