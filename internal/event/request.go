package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Draft is a request as its author wrote it: the data alone, or a whole structured CloudEvent.
type Draft struct {
	Body   []byte
	ID     string    // wins over the event's own; needed where that has none
	Source string    // likewise
	Time   time.Time // of an event that has none; left out if zero
	Trace  provision.Trace
}

// EncodeRequest returns the draft as a structured CloudEvent of TypeCreate with the headers to
// publish it with. The data is passed on as it is written: whether it is valid is for Decode to
// say. It fails on a body that is no JSON object or has a name twice, and where id or source is
// missing.
func EncodeRequest(d Draft) (Message, error) {
	text, err := PlainText(d.Body)
	if err != nil {
		return Message{}, fmt.Errorf("event: the request is %w", err)
	}
	root, err := parseTop(text)
	if err != nil {
		return Message{}, fmt.Errorf("event: the request is %w", err)
	}
	if root.kind != kindObject {
		return Message{}, errors.New("event: the request is not a JSON object")
	}
	fields, err := d.fields(root)
	if err != nil {
		return Message{}, err
	}
	body, err := marshal(fields)
	if err != nil {
		return Message{}, fmt.Errorf("event: encode request: %w", err)
	}
	return Message{Headers: map[string][]string{HeaderContentType: {ContentType}}, Body: body}, nil
}

// fields returns the event's members by name.
func (d Draft) fields(root *node) (map[string]any, error) {
	fields := map[string]any{}
	if root.member("specversion") == nil {
		fields = map[string]any{"specversion": specVersion, "type": TypeCreate,
			"datacontenttype": "application/json", "data": json.RawMessage(root.raw)}
		root = &node{}
	}
	for _, each := range root.members {
		if each.value.flaw != "" {
			return nil, fmt.Errorf("event: %s: %s", under("", each.name), each.value.flaw)
		}
		fields[each.name] = json.RawMessage(each.value.raw)
	}
	d.override(fields)
	for _, name := range []string{"id", "source"} {
		if fields[name] == nil {
			return nil, fmt.Errorf("event: the request has no %s; give it one", name)
		}
	}
	return fields, nil
}

// override sets what the draft says beside its body.
func (d Draft) override(fields map[string]any) {
	for name, value := range map[string]string{"id": d.ID, "source": d.Source,
		HeaderTraceParent: d.Trace.Parent, HeaderTraceState: d.Trace.State} {
		if value != "" {
			fields[name] = value
		}
	}
	if fields["time"] == nil && !d.Time.IsZero() {
		fields["time"] = d.Time.UTC()
	}
}

// TokenInAttribute returns a failure where a structured event has a token in an attribute that Decode passes over
// because nobody reads it (subject, time, dataschema): who sends the event can still keep it out of the stream.
func TokenInAttribute(body []byte) *provision.Failure {
	root, err := parseTop(body)
	if err != nil {
		return nil //nolint:nilerr // Decode says what is wrong with it
	}
	var bad violations
	for _, each := range root.members {
		if !readsAttribute(each.name) && readAttribute(each.name, each.value.text).fault == faultToken {
			bad.addAs(provision.ReasonPlaintextSecret, under("", each.name), faultToken)
		}
	}
	return bad.failure()
}
