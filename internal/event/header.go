package event

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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

// otherPrefixes stand before an attribute's name in other bindings than that of NATS: Kafka's, and AMQP's and JMS's.
// A bridge from there leaves them as they are. They are read, and kept, as attributePrefix.
var otherPrefixes = []string{"ce_", "cloudevents_"}

func fold(in map[string][]string) headers {
	out := make(headers, len(in))
	var others []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		lower := strings.ToLower(name)
		if _, ok := otherBinding(lower); ok {
			others = append(others, name)
			continue
		}
		out[lower] = append(out[lower], in[name]...)
	}
	for _, name := range others {
		attr, _ := otherBinding(strings.ToLower(name))
		if at := attributePrefix + attr; !slices.Equal(out[at], in[name]) { // else both spellings say the same
			out[at] = append(out[at], in[name]...)
		}
	}
	return out
}

// otherBinding returns the attribute that a header in lower case is of in another binding.
func otherBinding(lower string) (attr string, ok bool) {
	for _, prefix := range otherPrefixes {
		if attr, ok = strings.CutPrefix(lower, prefix); ok {
			return attr, true
		}
	}
	return "", false
}

var errTwice = errors.New("given more than once")

// spellings returns how the names of an attribute's headers are written, where there is more than one.
func spellings(in map[string][]string, attr string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		lower := strings.ToLower(name)
		if other, ok := otherBinding(lower); lower == attributePrefix+attr || ok && other == attr {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		return nil
	}
	return names
}

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

var errPercent = errors.New("not UTF-8 after percent-decoding; write each byte of UTF-8 that is not printable ASCII as %XX, and a percent sign as %25")

// unescape decodes the value of a binary attribute where the CloudEvents binding encodes: blanks, double quotes,
// percent signs and all that is not printable ASCII. Whatever else looks encoded is a part of the value, for the
// common libraries encode nothing: "order%2F123" has come as it is meant. It is the inverse of the binding's
// encoder, and changes nothing that such an encoder would have written in another way.
func unescape(value string) (string, error) {
	if strings.IndexByte(value, '%') >= 0 {
		var b strings.Builder
		for i := 0; i < len(value); i++ {
			c, ok := byte(0), false
			if value[i] == '%' && i+2 < len(value) {
				n, err := strconv.ParseUint(value[i+1:i+3], 16, 8)
				c, ok = byte(n), err == nil && encodes(byte(n))
			}
			if !ok {
				b.WriteByte(value[i])
				continue
			}
			b.WriteByte(c)
			i += 2
		}
		value = b.String()
	}
	if !utf8.ValidString(value) {
		return "", errPercent
	}
	return value, nil
}

// EncodeHeader returns the value of an attribute as a ce- header of the CloudEvents NATS binding has it, percent-encoded
// byte by byte. Decode reads it as the very same value, whatever that looks like.
func EncodeHeader(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if encodes(c) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// encodes reports whether the CloudEvents binding percent-encodes the byte.
func encodes(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }

// jsonMedia reports whether a media type is JSON.
func jsonMedia(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}
