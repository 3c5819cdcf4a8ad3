package flow

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// scrubber takes the secrets of one call out of what upstream says about it. The zero value knows no
// secret but still recognizes what looks like a token. What it searches for is made when it is first needed, for
// most calls succeed.
type scrubber struct {
	secrets []provision.Sensitive
	make    func() scrub.Scrubber // nil in the zero value
}

func newScrubber(secrets ...provision.Sensitive) scrubber {
	return scrubber{secrets, sync.OnceValue(func() scrub.Scrubber {
		texts := make([]string, len(secrets))
		for i, v := range secrets {
			texts[i] = v.Reveal()
		}
		return scrub.New(texts...)
	})}
}

func (s scrubber) known() scrub.Scrubber {
	if s.make == nil {
		return scrub.Scrubber{}
	}
	return s.make()
}

// ids are what the Flow Service's own ids and etags look like: there is no room in them for a secret but as it is.
var ids = regexp.MustCompile(`^"?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"?$`)

// clean reports whether t holds none of the secrets.
func (s scrubber) clean(t string) bool {
	if !ids.MatchString(t) {
		return s.known().Clean(t)
	}
	return !slices.ContainsFunc(s.secrets, func(v provision.Sensitive) bool {
		return len(v.Reveal()) >= scrub.Shortest && strings.Contains(t, strings.ToLower(v.Reveal()))
	})
}

// scrubberOf returns a scrubber for a call on behalf of as, with the secrets that are in it beside the
// account's own.
func scrubberOf(cr provision.Credentials, more ...provision.Sensitive) scrubber {
	own := append(cr.Secrets(), cr.AccessToken, identifierSecret(cr.APIKey), identifierSecret(cr.ClientID))
	return newScrubber(append(more, own...)...)
}

// identifierSecret returns an API key or a client id as something to be taken out. They are half a
// secret, and nobody needs to read them in an error; but a short one may be a word of every error.
func identifierSecret(id string) provision.Sensitive {
	if len(id) < scrub.Part {
		return provision.Sensitive{}
	}
	return provision.NewSensitive(id)
}

// message returns t without secrets, on one line, with at most maxMessage characters.
func (s scrubber) message(t string) string { return s.known().Line(t, maxMessage) }

// id returns t if it is a plain identifier of at most limit bytes and holds no secret, else "".
func (s scrubber) id(t string, limit int) string {
	if len(t) > limit || !identifier.MatchString(t) || !s.clean(t) {
		return ""
	}
	return t
}
