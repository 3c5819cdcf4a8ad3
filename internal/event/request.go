package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
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
	fields := map[string]any{}
	if root.member("specversion") == nil {
		fields = map[string]any{"specversion": specVersion, "type": TypeCreate,
			"datacontenttype": "application/json", "data": json.RawMessage(root.raw)}
		root = &node{}
	}
	for _, each := range root.members {
		if each.value.flaw != "" {
			return Message{}, fmt.Errorf("event: %s: %s", under("", each.name), each.value.flaw)
		}
		fields[each.name] = json.RawMessage(each.value.raw)
	}
	for name, value := range map[string]string{"id": d.ID, "source": d.Source,
		HeaderTraceParent: d.Trace.Parent, HeaderTraceState: d.Trace.State} {
		if value != "" {
			fields[name] = value
		}
	}
	if fields["time"] == nil && !d.Time.IsZero() {
		fields["time"] = d.Time.UTC()
	}
	for _, name := range []string{"id", "source"} {
		if fields[name] == nil {
			return Message{}, fmt.Errorf("event: the request has no %s; give it one", name)
		}
	}
	body, err := marshal(fields)
	if err != nil {
		return Message{}, fmt.Errorf("event: encode request: %w", err)
	}
	return Message{Headers: map[string][]string{HeaderContentType: {ContentType}}, Body: body}, nil
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

// HeaderResolve comes with HeaderRetry, and says what a person found out of a POST that nobody could settle:
// "connection=<id>&by=<who>&why=<text>", or "absent=true&by=…&why=…", encoded as a URL's query.
const HeaderResolve = "Flow-Worker-Resolve"

// Limits of a resolution, in bytes.
const (
	MaxResolver   = 128
	MaxResolveWhy = 512
)

// ErrTokenInResolution is of a part of a resolution that nobody may be shown: all of them go into the ledger,
// results and stories.
var ErrTokenInResolution = errors.New("holds what looks like a token or a password; write none there, and change the one that was")

var connectionID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ResolveHeader returns the value of HeaderResolve that says r. It fails, naming the part, on what Decode
// would refuse, with ErrTokenInResolution where that is a token.
func ResolveHeader(r provision.Resolution) (string, error) {
	if err := checkResolution(r); err != nil {
		return "", err
	}
	q := url.Values{"by": {r.By}, "why": {r.Why}}
	if r.Connection == "" {
		q.Set("absent", "true")
	} else {
		q.Set("connection", r.Connection)
	}
	return q.Encode(), nil
}

func checkResolution(r provision.Resolution) error {
	if scrub.HoldsToken(r.Connection) {
		return fmt.Errorf("connection: %w", ErrTokenInResolution)
	}
	if r.Connection != "" && !connectionID.MatchString(r.Connection) {
		return fmt.Errorf("connection: want the id of a connection, 1 to 64 letters, digits, %q and %q", "-", "_")
	}
	if err := checkPart("by", r.By, MaxResolver); err != nil {
		return err
	}
	return checkPart("why", r.Why, MaxResolveWhy)
}

// checkPart checks what a person wrote. A token is one however long it is.
func checkPart(name, value string, most int) error {
	hidden := func(c rune) bool { return !unicode.IsPrint(c) }
	switch {
	case scrub.HoldsToken(value):
		return fmt.Errorf("%s: %w", name, ErrTokenInResolution)
	case strings.TrimSpace(value) == "" || len(value) > most || !utf8.ValidString(value) || strings.ContainsFunc(value, hidden):
		return fmt.Errorf("%s: want 1 to %d bytes of printable text", name, most)
	}
	return nil
}

// resolution reads the resolve header. A malformed one, or one without a retry, returns a salt, for then the
// message speaks of no try of its request.
func (m *message) resolution(retry int) (r *provision.Resolution, salt string) {
	values := m.headers[strings.ToLower(HeaderResolve)]
	if len(values) == 0 {
		return nil, ""
	}
	parsed, err := parseResolution(values)
	if err == nil && retry < 1 {
		err = fmt.Errorf("want it with %s, one more than the last retry", HeaderRetry)
	}
	if err == nil {
		return &parsed, ""
	}
	reason := provision.ReasonInvalidRequest
	if errors.Is(err, ErrTokenInResolution) {
		reason = provision.ReasonPlaintextSecret
	}
	m.bad.addAs(reason, "header "+HeaderResolve, err.Error())
	return nil, saltOf(values)
}

func parseResolution(values []string) (r provision.Resolution, err error) {
	if len(values) != 1 {
		return r, errTwice
	}
	q, err := url.ParseQuery(values[0])
	if err != nil {
		return r, fmt.Errorf("want it encoded as a URL's query")
	}
	absent := len(q["absent"]) == 1 && q.Get("absent") == "true"
	named := len(q["connection"]) == 1 && q.Get("connection") != ""
	if len(q) != 3 || absent == named || len(q["by"]) != 1 || len(q["why"]) != 1 {
		return r, fmt.Errorf("want by, why, and either connection or absent=true, once each")
	}
	r = provision.Resolution{Connection: q.Get("connection"), By: q.Get("by"), Why: q.Get("why")}
	return r, checkResolution(r)
}
