package requester

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// DefaultSource is the source of requests that were written as mere data.
const DefaultSource = "/worker/submit"

// maxInput bounds one file, so that a wrong one can't fill the memory.
const maxInput = 64 << 20

// Message is one request, ready to be published.
type Message struct {
	Key         provision.Key
	Name        string // of the connection; empty where the request could not be read
	Fingerprint string
	Invalid     *provision.Failure // why a worker would refuse it at once, or it must not be sent; nil if all is well
	Unnamed     bool               // its own id or source can't be read, so a worker would give it another Key than this
	wire        event.Message
}

// Options say how data becomes requests.
type Options struct {
	Tenant  string
	ID      string         // of a single request; empty means a new random one for each
	Source  string         // empty means DefaultSource
	Decoder *event.Decoder // the worker's own reader, so that both say the same
}

// Parse reads one or several requests: JSON values one after another, or in arrays. Each is either a
// whole CloudEvent or the data of one.
func Parse(r io.Reader, o Options) ([]Message, error) {
	values, err := split(r)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, errors.New("holds no request; want the JSON of at least one")
	}
	if o.ID != "" && len(values) > 1 {
		return nil, fmt.Errorf("holds %d requests, but an id names one only; leave --id out, or send whole CloudEvents", len(values))
	}
	var messages []Message
	for i, v := range values {
		m, err := o.message(v)
		if err != nil {
			return nil, fmt.Errorf("request %d: %w", i+1, err)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// split takes the input apart without decoding the values, so that the worker's reader gets to see
// them as they were written. A byte order mark may stand before each of them, as in files that were joined.
func split(r io.Reader) (values [][]byte, err error) {
	input, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(input) > maxInput {
		return nil, fmt.Errorf("is larger than %d MiB", maxInput>>20)
	}
	if _, err := event.PlainText(input); err != nil {
		return nil, fmt.Errorf("is %w", err)
	}
	for rest := unmarked(input); len(rest) > 0; rest = unmarked(rest) {
		dec := reader(rest)
		if _, err := dec.ReadValue(); err != nil {
			return nil, notJSON(err, len(input)-len(rest), len(input))
		}
		value := rest[:dec.InputOffset()]
		if rest = rest[len(value):]; value[0] == '[' {
			values = append(values, elements(value)...)
		} else {
			values = append(values, value)
		}
	}
	return values, nil
}

// unmarked returns the text without the blanks and byte order marks that it begins with.
func unmarked(text []byte) []byte {
	return bytes.TrimLeftFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n\ufeff", r) })
}

// reader reads JSON whose faults are for the worker's own reader to find.
func reader(text []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// elements returns those of an array that was read once already.
func elements(array []byte) (values [][]byte) {
	dec := reader(array)
	_, _ = dec.ReadToken()
	for dec.PeekKind() != jsontext.KindEndArray {
		v, err := dec.ReadValue()
		if err != nil {
			return values
		}
		end := int(dec.InputOffset())
		values = append(values, array[end-len(v):end])
	}
	return values
}

// notJSON says where the input stops being JSON, counted from one as the worker does, without quoting it: it
// may hold a secret.
func notJSON(err error, before, size int) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("is not JSON at byte %d of %d: a character that can't stand there", before+int(syntax.ByteOffset)+1, size)
	}
	return fmt.Errorf("is not JSON: it ends in the middle of a value, after byte %d", size)
}

// message makes one request. A whole event keeps its own id and source unless the options name others.
func (o Options) message(v []byte) (Message, error) {
	draft := event.Draft{Body: v, ID: o.ID, Source: o.Source, Time: time.Now()}
	if !isEvent(v) {
		draft.ID, draft.Source = cmp.Or(o.ID, NewID()), cmp.Or(o.Source, DefaultSource)
	}
	m, err := event.EncodeRequest(draft)
	if err != nil {
		return Message{}, err
	}
	d := o.Decoder.Decode(o.Tenant, m.Headers, m.Body, event.Meta{Timestamp: time.Now(), Delivered: 1})
	if d.Invalid == nil {
		d.Invalid = event.TokenInAttribute(m.Body)
	}
	return Message{
		Key: d.Request.Key, Name: d.Request.Data.Name, Fingerprint: d.Request.Fingerprint,
		Invalid: d.Invalid, Unnamed: d.Invalid != nil && !named(m.Body, d.Request.Key), wire: m,
	}, nil
}

// named reports whether an event's own id and source are those of key.
func named(body []byte, key provision.Key) bool {
	var members map[string]any
	_ = json.Unmarshal(body, &members) // what is no event names nothing
	return members["id"] == key.ID && members["source"] == key.Source
}

// Unreadable says which of the given ID and Source no worker could read; nothing if all is well.
func (o Options) Unreadable() string {
	for _, one := range []struct{ flag, value string }{{"id", o.ID}, {"source", o.Source}} {
		probe := Options{Tenant: o.Tenant, ID: one.value, Source: one.value, Decoder: o.Decoder}
		m, err := probe.message([]byte(`{}`))
		if one.value != "" && (err != nil || m.Unnamed || !utf8.ValidString(one.value)) {
			return fmt.Sprintf("--%s is %.80q; want 1 to 256 bytes of UTF-8 without control characters", one.flag, one.value)
		}
	}
	return ""
}

// isEvent reports whether v is an object with a member "specversion".
func isEvent(v []byte) bool {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(v, &members) // what is no object is no event
	_, ok := members["specversion"]
	return ok
}

// NewID returns a random UUID (RFC 9562, version 4).
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
