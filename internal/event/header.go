package event

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Names of headers, as they are written. They are read without regard to case.
const (
	HeaderContentType = "Content-Type"
	HeaderMsgID       = "Nats-Msg-Id"
	HeaderRetry       = "Flow-Worker-Retry"
	HeaderReason      = "Flow-Worker-Reason"      // of a dead letter: the failure's reason
	HeaderRequestKey  = "Flow-Worker-Request-Key" // of a dead letter: provision.Key.String
	HeaderFailedAt    = "Flow-Worker-Failed-At"   // of a dead letter: RFC 3339, UTC
	HeaderRedacted    = "Flow-Worker-Redacted"    // of a dead letter: "true" where anything was removed
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
	attributePrefix   = "ce-" // before a CloudEvents attribute's name in the binary form
)

// ContentType is that of every event this package writes.
const ContentType = "application/cloudevents+json"

// headers are a message's headers by lower-case name, so that they can be read without case.
type headers map[string][]string // :: lower-case name → values

func fold(in map[string][]string) headers {
	out := make(headers, len(in))
	for name, values := range in {
		lower := strings.ToLower(name)
		out[lower] = append(out[lower], values...)
	}
	return out
}

var errTwice = errors.New("given more than once")

// get returns the header's only value. It fails where there are several: readers differ in which
// one they take.
func (h headers) get(name string) (value string, ok bool, err error) {
	values := h[strings.ToLower(name)]
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	return "", true, errTwice
}

// attributes reports whether any of the headers is a CloudEvents attribute, and whether one of those
// is more than a request's identity, which alone does not make an event.
func (h headers) attributes() (found, event bool) {
	for name := range h {
		attr, ok := strings.CutPrefix(name, attributePrefix)
		found = found || ok
		event = event || ok && attr != "id" && attr != "source"
	}
	return found, event
}

// maxAttributes bounds the attributes of a binary event: a broker lets tens of thousands through.
const maxAttributes = 256

// tooMany reports whether there are more attributes than maxAttributes.
func (h headers) tooMany() bool {
	n := 0
	for name := range h {
		if strings.HasPrefix(name, attributePrefix) {
			n++
		}
	}
	return n > maxAttributes
}

// mediaType returns the Content-Type without its parameters, in lower case.
func (h headers) mediaType() string {
	value, _, _ := h.get(HeaderContentType)
	mediaType, _, _ := strings.Cut(value, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

var errPercent = errors.New("not percent-encoded UTF-8")

// unescape decodes the value of a binary attribute: the CloudEvents binding percent-encodes blanks,
// quotes, percent signs and all that is not printable ASCII.
func unescape(value string) (string, error) {
	text, err := url.PathUnescape(value)
	if err != nil || !utf8.ValidString(text) {
		return "", errPercent
	}
	return text, nil
}

// jsonMedia reports whether a media type is JSON.
func jsonMedia(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}
