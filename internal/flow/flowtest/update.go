package flowtest

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// patchOp is one instruction of a PATCH.
type patchOp struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// update answers PATCH /connections/{id}. Everything in a PATCH happens, or nothing.
func (x *exchange) update() answer {
	c, refusal := x.found()
	if refusal != nil {
		return *refusal
	}
	match := x.r.Header.Get("If-Match")
	switch {
	case match == "":
		return x.flowError("1403-400")
	case match != c.etag:
		return x.flowError("1404-412")
	case c.state(x.now) == stateInitializing:
		return x.flowError("1417-400")
	}
	ops, refusal := x.patchOps()
	if refusal != nil {
		return *refusal
	}
	changed := *c
	for _, op := range ops {
		if refusal := x.apply(&changed, op); refusal != nil {
			return *refusal
		}
	}
	stored, ok := x.em.store.update(c, x.em.cfg.Clock(), func(c *conn) {
		c.name, c.description, c.params = changed.name, changed.description, changed.params
		c.lastOp, c.updater = "update", x.apiKey()
	})
	if !ok { // another PATCH was quicker
		return x.flowError("1404-412")
	}
	return jsonAnswer(http.StatusOK, idEtag{stored.id, stored.etag})
}

func (x *exchange) patchOps() ([]patchOp, *answer) {
	var ops []patchOp
	body := bytes.TrimSpace(x.body)
	if len(body) == 0 {
		return nil, flowRefusal(x.flowError("1405-400"))
	}
	if err := json.Unmarshal(body, &ops); err != nil {
		return nil, flowRefusal(badRequest("the body is not a JSON array of patch operations"))
	}
	if len(ops) == 0 {
		return nil, flowRefusal(x.flowError("1405-400"))
	}
	return ops, nil
}

// apply carries out one instruction on c.
func (x *exchange) apply(c *conn, op patchOp) *answer {
	switch op.Op {
	case "add", "replace", "remove":
	default:
		return flowRefusal(x.flowError("1434-400", op.Op))
	}
	removed := op.Op == "remove"
	switch op.Path {
	case "/name":
		return x.applyText(&c.name, op, removed)
	case "/description":
		if removed {
			c.description = ""
			return nil
		}
		return x.applyText(&c.description, op, false)
	case "/auth/params":
		return x.applyParams(c, op, removed)
	case "/connectionSpec", "/connectionSpec/id", "/connectionSpec/version":
		return flowRefusal(x.flowError("1414-400"))
	}
	return flowRefusal(x.flowError("1455-400", "unsupported path "+op.Path))
}

func (x *exchange) applyText(to *string, op patchOp, removed bool) *answer {
	var text *string
	if removed || json.Unmarshal(op.Value, &text) != nil || text == nil {
		return flowRefusal(x.flowError("1455-400", op.Path+" needs a text as its value"))
	}
	*to = *text
	return nil
}

func (x *exchange) applyParams(c *conn, op patchOp, removed bool) *answer {
	var params map[string]any
	if removed || json.Unmarshal(op.Value, &params) != nil || params == nil {
		return flowRefusal(x.flowError("1455-400", "/auth/params needs an object as its value"))
	}
	spec, _ := x.em.spec(c.specID)
	auth, _ := spec.auth(c.specName)
	if name, missing := auth.missing(params); missing {
		return flowRefusal(x.flowError("1304-400", name))
	}
	c.params = params
	return nil
}
