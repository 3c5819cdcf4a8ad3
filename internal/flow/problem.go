package flow

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// problem is what an error answer says, scrubbed and cut to size.
type problem struct {
	code       string // such as "FLOW-1413-400", "401013", "invalid_scope"; empty if there is none
	number     int    // the n of <PREFIX>-<n>-<status>, 0 where code has another form
	message    string
	requestID  string
	retryAfter time.Duration
}

// problemBody is the union of the error bodies that come from one and the same address: the Flow
// Service's present and older ones, Adobe's gateway, the platform's generic one, and IMS. Any field
// may be missing or of another type.
type problemBody struct {
	Type         text `json:"type"`
	Title        text `json:"title"`
	Status       text `json:"status"`
	Detail       text `json:"detail"`
	ErrorMessage text `json:"errorMessage"`
	ErrorDetails text `json:"errorDetails"`
	Message      text `json:"message"`
	ErrorCode    text `json:"error_code"`
	Error        text `json:"error"`
	Description  text `json:"error_description"`
	RetryAfterMs text `json:"retryAfterMs"`

	Report lenient[struct {
		Detailed  text `json:"detailed-message"`
		RequestID text `json:"request-id"`
	}] `json:"report"`
}

// origin says whose an error answer is, by its form.
type origin int

const (
	fromSomebody origin = iota // no more than {message}: the Flow Service says that at times, as others do
	fromOlder                  // no more than {errorMessage} or with errorDetails: the Flow Service's older form, and others'
	fromStranger               // HTML, text, or JSON in a form that no service of Adobe's is known to use
	fromNobody                 // no body: the Flow Service documents that of some statuses
	fromService                // a form that is documented of the Flow Service or of Adobe's gateway, and of nobody else
)

var (
	// serviceType is the type of an error of the Flow Service, or of the sources behind it.
	serviceType = regexp.MustCompile(`^` + adobeHost + `([a-zA-Z0-9/_-]*/)?[A-Z][A-Z0-9_]{0,30}-[0-9]{1,6}-[0-9]{3}$`)
	// genericType is the type of an error in the platform's generic form, which others use, too (RFC 7807). The
	// placeholder is what Adobe's documentation shows.
	genericType = regexp.MustCompile(`^` + adobeHost + `|^/placeholder/type/uri$`)
	// gatewayCode is a code of Adobe's gateway: a status and three digits.
	gatewayCode = regexp.MustCompile(`^[1-5][0-9]{5}$`)
	// timedOut is what a gateway or a function says of a call that went on without it.
	timedOut = regexp.MustCompile(`(?i)\btime[ds]?[ -]?out\b`)
)

const adobeHost = `https?://([a-z0-9-]+\.)*adobe\.(com|io)/`

// originOf tells whose an answer is. One that was cut is nobody's, nor one that says a thing twice.
func originOf(a answer) origin {
	if len(bytes.TrimSpace(a.body)) == 0 && a.bodyErr == nil {
		return fromNobody
	}
	o, ok := readObject(a.body)
	var b problemBody
	if a.bodyErr != nil || !ok || json.Unmarshal(a.body, &b) != nil {
		return fromStranger
	}
	switch kind := o.text("type"); {
	case serviceType.MatchString(kind),
		o["error_code"] != nil && gatewayCode.MatchString(string(b.ErrorCode)) && o.text("message") != "",
		genericType.MatchString(kind) && o.text("title") != "" && o.text("detail") != "" && o["status"] != nil && b.Status != "":
		return fromService
	case timedOut.MatchString(string(b.words())):
	case o.text("errorMessage") != "" && o.only("errorMessage", "errorDetails"):
		return fromOlder
	case o.text("message") != "" && o.only("message"):
		return fromSomebody
	}
	return fromStranger
}

// Limits of what is taken over from upstream.
const (
	maxMessage    = 500 // characters
	maxCode       = 64  // bytes
	maxRequestID  = 128 // bytes
	maxRetryAfter = 24 * time.Hour
)

var (
	serviceCode = regexp.MustCompile(`([A-Z][A-Z0-9_]{0,30})-([0-9]{1,6})-([0-9]{3})$`)
	identifier  = regexp.MustCompile(`^[A-Za-z0-9._:/=+-]+$`)
)

// readProblem reads an error answer of any shape. It never fails: what it cannot read is left empty.
// Of the body it takes over the fields that are made to be told, and nothing of one that isn't JSON:
// that may be an echo of the request, a page for somebody else, or anything.
func readProblem(h http.Header, body []byte, s scrubber) problem {
	var b problemBody
	if json.Unmarshal(body, &b) != nil {
		b = problemBody{} // a part of it may have been read
	}
	said, id := string(b.words()), firstOf(string(b.Report.value.RequestID), h.Get("X-Request-Id"))
	code, number := b.code()
	p := problem{
		code: s.id(code, maxCode), message: s.message(said), requestID: s.id(id, maxRequestID),
		retryAfter: retryAfter(h.Get("Retry-After"), string(b.RetryAfterMs), time.Now()),
	}
	if p.code != "" {
		p.number = number
	}
	return p
}

// code returns the body's code, and its n where it has the form <PREFIX>-<n>-<status>.
func (b problemBody) code() (code string, number int) {
	if m := serviceCode.FindStringSubmatch(string(b.Type)); m != nil {
		number, _ = strconv.Atoi(m[2]) // six digits at most
		return m[0], number
	}
	return firstOf(string(b.ErrorCode), string(b.Error)), 0
}

// words returns the most telling text of the body.
func (b problemBody) words() text {
	for _, t := range []text{b.Report.value.Detailed, b.ErrorMessage, b.ErrorDetails, b.Detail, b.Message, b.Description, b.Title} {
		if strings.TrimSpace(string(t)) != "" {
			return t
		}
	}
	return b.Error
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// retryAfter reads a Retry-After header, in seconds or as a date, and in its absence a number of
// milliseconds. It returns 0 for what it cannot read, and at most maxRetryAfter.
func retryAfter(header, millis string, now time.Time) time.Duration {
	if secs, err := strconv.ParseFloat(header, 64); err == nil {
		return bounded(secs * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return bounded(float64(at.Sub(now)))
	}
	if ms, err := strconv.ParseFloat(millis, 64); err == nil {
		return bounded(ms * float64(time.Millisecond))
	}
	return 0
}

func bounded(ns float64) time.Duration {
	if !(ns > 0) { // also not a number
		return 0
	}
	return time.Duration(min(ns, float64(maxRetryAfter)))
}
