package flowtest

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Client is an OAuth server-to-server credential of one organization.
type Client struct {
	OrgID    string // such as "1234567890ABCDEF12345678@AdobeOrg"
	ClientID string // also the API key
	// ClientSecret fits nothing where it is empty.
	ClientSecret provision.Sensitive
	// Scopes are what may be asked for, comma-separated. Empty means anything.
	Scopes string
}

// grant is what a token is good for. An empty orgID or apiKey fits any.
type grant struct {
	orgID, apiKey string
	expires       time.Time // zero: never
	revoked       bool
}

func (g grant) valid(now time.Time) bool {
	return !g.revoked && (g.expires.IsZero() || now.Before(g.expires))
}

// identities knows clients and tokens.
type identities struct {
	dice    *dice
	mu      sync.Mutex
	clients map[string]Client // :: client id → client
	tokens  map[string]grant  // :: token → grant
	swept   int               // size of tokens after the last sweep
}

func newIdentities(d *dice) *identities {
	return &identities{dice: d, clients: map[string]Client{}, tokens: map[string]grant{}}
}

// AddClient makes c known to IMS; one with the same ClientID is replaced. As long as no client was
// ever added, IMS gives a token, good for every organization, to any client id with any secret.
func (e *Emulator) AddClient(c Client) {
	e.idents.mu.Lock()
	defer e.idents.mu.Unlock()
	e.idents.clients[c.ClientID] = c
}

// AddToken makes a bearer token known that never expires and fits only this organization and API key
// (either may be empty: any).
func (e *Emulator) AddToken(token provision.Sensitive, orgID, apiKey string) {
	e.idents.mu.Lock()
	defer e.idents.mu.Unlock()
	e.idents.tokens[token.Reveal()] = grant{orgID: orgID, apiKey: apiKey}
}

// ExpireTokens makes every token that is known now invalid, issued or added: calls with one get
// 401013 from now on.
func (e *Emulator) ExpireTokens() {
	e.idents.mu.Lock()
	for token := range e.idents.tokens {
		e.idents.revokeLocked(token)
	}
	e.idents.mu.Unlock()
	e.announce()
}

func (i *identities) revoke(token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revokeLocked(token)
}

func (i *identities) revokeLocked(token string) {
	if g, ok := i.tokens[token]; ok {
		g.revoked = true
		i.tokens[token] = g
	}
}

func (i *identities) lookup(token string) (grant, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	g, ok := i.tokens[token]
	return g, ok
}

// issue returns a new token.
func (i *identities) issue(g grant, now time.Time) string {
	token := "emulated." + i.dice.hex() + i.dice.hex()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tokens[token] = g
	i.sweepLocked(now)
	return token
}

// sweepLocked forgets stale tokens whenever their number has doubled, so that memory is bounded by
// the tokens that are alive. A forgotten one is as invalid as a stale one.
func (i *identities) sweepLocked(now time.Time) {
	if len(i.tokens) < 2*i.swept+1024 {
		return
	}
	for token, g := range i.tokens {
		if !g.valid(now) {
			delete(i.tokens, token)
		}
	}
	i.swept = len(i.tokens)
}

// admit decides on a token request. It returns what the token is good for, or IMS's error.
func (i *identities) admit(id, secret, scope string) (grant, *answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.clients) == 0 {
		return grant{apiKey: id}, nil
	}
	c, ok := i.clients[id]
	if !ok {
		return grant{}, refuse(imsAnswer(http.StatusBadRequest, "invalid_client", "invalid client_id parameter"))
	}
	if secret != c.ClientSecret.Reveal() || secret == "" {
		return grant{}, refuse(imsAnswer(http.StatusBadRequest, "invalid_client", "invalid client_secret parameter"))
	}
	if !scopesWithin(scope, c.Scopes) {
		return grant{}, refuse(imsAnswer(http.StatusBadRequest, "invalid_scope", "Requested scopes are not a subset of the credential's scopes."))
	}
	return grant{orgID: c.OrgID, apiKey: id}, nil
}

// scopesWithin reports whether every scope that is asked for is allowed. Scopes joined by blanks, as
// RFC 6749 has them, are one unknown scope here.
func scopesWithin(asked, allowed string) bool {
	if allowed == "" || asked == "" {
		return true
	}
	list := strings.Split(allowed, ",")
	for _, s := range strings.Split(asked, ",") {
		if !slices.Contains(list, s) {
			return false
		}
	}
	return true
}

// token answers POST /ims/token/v3, the client credentials grant. Adobe does not publish its error
// answers; 400 with an OAuth error code is what users report.
func (x *exchange) token() answer {
	form, refusal := x.tokenForm()
	if refusal != nil {
		return *refusal
	}
	if g := form.Get("grant_type"); g != "client_credentials" {
		return imsAnswer(http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials")
	}
	if form.Get("client_id") == "" || form.Get("client_secret") == "" {
		return imsAnswer(http.StatusBadRequest, "invalid_request", "client_id and client_secret are required")
	}
	g, refusal := x.em.idents.admit(form.Get("client_id"), form.Get("client_secret"), form.Get("scope"))
	if refusal != nil {
		return *refusal
	}
	life := max(x.em.cfg.ExpiresIn, 0).Truncate(time.Second)
	g.expires = x.now.Add(life)
	return jsonAnswer(http.StatusOK, struct {
		Token   string `json:"access_token"`
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
	}{x.em.idents.issue(g, x.now), "bearer", int(life / time.Second)}).with("Cache-Control", "no-store")
}

// tokenForm returns the parameters of body and query, the body's first.
func (x *exchange) tokenForm() (url.Values, *answer) {
	kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if len(x.body) > 0 && (err != nil || kind != "application/x-www-form-urlencoded") {
		return nil, refuse(imsAnswer(http.StatusBadRequest, "invalid_request", "Content-Type must be application/x-www-form-urlencoded"))
	}
	form, err := url.ParseQuery(string(x.body))
	if err != nil || x.queryErr != nil {
		return nil, refuse(imsAnswer(http.StatusBadRequest, "invalid_request", "the form cannot be read"))
	}
	for key, values := range x.query {
		form[key] = append(form[key], values...)
	}
	return form, nil
}
