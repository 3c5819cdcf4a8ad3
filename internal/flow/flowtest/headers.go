package flowtest

import (
	"mime"
	"net/http"
	"regexp"
	"slices"
)

var orgPattern = regexp.MustCompile(`^[^@\s]+@AdobeOrg$`)

// checkHeaders returns the refusal of a request whose headers are not in order, gateway first. The
// token endpoint wants no headers.
func (x *exchange) checkHeaders() *answer {
	if x.op == OpToken || x.op == OpOther {
		return nil
	}
	for _, check := range []func() *answer{x.checkToken, x.checkOrg, x.checkSandbox, x.checkContentType} {
		if refusal := check(); refusal != nil {
			return refusal
		}
	}
	return nil
}

func gatewayRefusal(code string) *answer {
	a := gatewayAnswer(code)
	return &a
}

func flowRefusal(a answer) *answer { return &a }

func (x *exchange) checkToken() *answer {
	key := x.r.Header.Get("x-api-key")
	if x.r.Header.Get("Authorization") == "" {
		return gatewayRefusal("403010")
	}
	if key == "" {
		return gatewayRefusal("403000")
	}
	g, known := x.em.idents.lookup(x.bearer)
	switch {
	case !known && x.em.cfg.AllowAnyToken && x.bearer != "":
		return nil
	case !known || !g.valid(x.now):
		return gatewayRefusal("401013")
	case g.apiKey != "" && g.apiKey != key:
		return gatewayRefusal("403003")
	}
	return nil
}

func (x *exchange) checkOrg() *answer {
	if x.org == "" {
		return gatewayRefusal("400003")
	}
	if !orgPattern.MatchString(x.org) {
		return gatewayRefusal("403027")
	}
	if g, _ := x.em.idents.lookup(x.bearer); g.orgID != "" && g.orgID != x.org {
		return gatewayRefusal("403025")
	}
	return nil
}

func (x *exchange) checkSandbox() *answer {
	known := x.em.cfg.Sandboxes
	switch {
	case x.r.Header.Get("x-sandbox-id") != "":
		return flowRefusal(x.flowError("2110-400"))
	case x.sandbox == "":
		return flowRefusal(x.flowError("2105-400"))
	case x.sandbox == "*":
		return flowRefusal(x.flowError("2111-403"))
	case len(known) > 0 && !slices.Contains(known, x.sandbox):
		return flowRefusal(x.flowError("2100-404", x.sandbox))
	}
	return nil
}

func (x *exchange) checkContentType() *answer {
	if x.r.Method != http.MethodPatch && x.op != OpCreate {
		return nil
	}
	kind, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return flowRefusal(badRequest("A valid content-type must be specified"))
	}
	return nil
}
