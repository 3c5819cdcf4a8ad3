package event

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

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

// checkPart judges what a person wrote. A token is one however long it is.
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
	h := sha256.New()
	for _, v := range values {
		h.Write([]byte(strconv.Quote(v)))
	}
	return nil, hex.EncodeToString(h.Sum(nil))
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
