package flow

import (
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

// scrubber takes the secrets of one call out of what upstream says about it. The zero value knows no
// secret but still recognizes what looks like a token.
type scrubber struct{ known scrub.Scrubber }

func newScrubber(secrets ...provision.Sensitive) scrubber {
	texts := make([]string, len(secrets))
	for i, v := range secrets {
		texts[i] = v.Reveal()
	}
	return scrubber{scrub.New(texts...)}
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
func (s scrubber) message(t string) string { return s.known.Line(t, maxMessage) }

// id returns t if it is a plain identifier of at most limit bytes and holds no secret, else "".
func (s scrubber) id(t string, limit int) string {
	if len(t) > limit || !identifier.MatchString(t) || !s.known.Clean(t) {
		return ""
	}
	return t
}
