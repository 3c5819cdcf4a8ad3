package flowtest

import (
	"mime"
	"net/http"
	"net/url"
	"time"
)

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
		return nil, imsRefusal("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
	}
	form, err := url.ParseQuery(string(x.body))
	if err != nil || x.queryErr != nil {
		return nil, imsRefusal("invalid_request", "the form cannot be read")
	}
	for key, values := range x.query {
		form[key] = append(form[key], values...)
	}
	return form, nil
}
