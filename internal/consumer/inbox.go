package consumer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
)

// OwnInbox returns an option that has a connection await its answers below "_INBOX.<name>", where the
// server can be told to let nobody else listen. A user that may listen to all of "_INBOX.>" can do that,
// too. The name is what the user is known by: that of the credentials, the public key of an NKey, the
// name in the URL or in the options; bytes other than letters, digits, "_" and "-" are written as "=XX".
// It stays what it was at the start, whatever the credentials are replaced by. Who has no name, only a
// token or a certificate, gets the ordinary inbox, below "_INBOX". It must be the last option.
func OwnInbox() nats.Option {
	return func(o *nats.Options) error {
		if name := userName(o); name != "" {
			o.InboxPrefix = nats.InboxPrefix + inboxToken(name)
		}
		return nil
	}
}

// userName returns how the server knows the user, as far as that can be told here.
func userName(o *nats.Options) string {
	if o.UserJWT != nil {
		if token, err := o.UserJWT(); err == nil { // else the login fails, and says why
			return jwtName(token)
		}
	}
	if o.Nkey != "" {
		return o.Nkey
	}
	for _, server := range append([]string{o.Url}, o.Servers...) {
		u, err := url.Parse(server)
		if err != nil || u.User == nil {
			continue
		}
		if _, both := u.User.Password(); both { // a lone user is a token, which is a secret
			return u.User.Username()
		}
	}
	return o.User
}

// jwtName returns the name in a user's JWT, or the public key where it has none. It is empty for what is
// no JWT.
func jwtName(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct{ Name, Sub string }
	if json.Unmarshal(raw, &claims) != nil {
		return ""
	}
	if claims.Name == "" {
		return claims.Sub
	}
	return claims.Name
}

// inboxToken makes one token of a subject from a name, another one for each name.
func inboxToken(name string) string {
	var token strings.Builder
	for _, b := range []byte(name) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '_', b == '-':
			token.WriteByte(b)
		default:
			fmt.Fprintf(&token, "=%02X", b)
		}
	}
	return token.String()
}
