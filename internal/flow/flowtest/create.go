package flowtest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// createBody is what POST /connections takes. Other members are ignored.
type createBody struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Auth        struct {
		SpecName string         `json:"specName"`
		Params   map[string]any `json:"params"`
	} `json:"auth"`
	Spec specRef `json:"connectionSpec"`
}

// create answers POST /connections, bent by the plan's faults.
func (x *exchange) create(p plan) answer {
	body, refusal := x.createBody()
	if refusal != nil {
		return *refusal
	}
	spec, auth, refusal := x.checkCreate(body)
	if refusal != nil {
		return *refusal
	}
	draft := x.query.Get("mode") == "draft"
	if draft && spec.NoDrafts {
		return badRequest("draft mode is not supported for this connection spec")
	}
	now := x.em.cfg.Clock() // a latency may have passed since x.now
	c := x.em.store.add(conn{
		in: x.scope(), name: body.Name, description: p.cut(body.Description),
		specID: spec.ID, specVersion: body.Spec.Version, specName: auth.Name,
		params: body.Auth.Params, secret: auth.Secret, draft: draft,
		created: now, updated: now, listedAt: now.Add(max(p.lag, x.em.cfg.ListLag)), readyAt: now.Add(p.initializing),
		creator: x.apiKey(), updater: x.apiKey(), lastOp: "create",
	})
	return jsonAnswer(http.StatusCreated, idEtag{c.id, c.etag}).with("Location", flowBase+"/connections/"+c.id)
}

func (x *exchange) createBody() (createBody, *answer) {
	var body createBody
	switch trimmed := bytes.TrimSpace(x.body); {
	case len(trimmed) == 0 || bytes.Equal(trimmed, []byte("{}")) || bytes.Equal(trimmed, []byte("null")):
		return body, flowRefusal(x.flowError("1405-400"))
	case json.Unmarshal(trimmed, &body) != nil:
		return body, flowRefusal(badRequest("the body is not the JSON of a connection"))
	}
	return body, nil
}

// checkCreate finds the connection spec and auth spec of body and checks its params.
func (x *exchange) checkCreate(body createBody) (Spec, AuthSpec, *answer) {
	if mode := x.query.Get("mode"); mode != "" && mode != "draft" {
		return Spec{}, AuthSpec{}, flowRefusal(x.flowError("1453-400", mode))
	}
	spec, ok := x.em.spec(body.Spec.ID)
	if !ok {
		return Spec{}, AuthSpec{}, flowRefusal(x.flowError("1413-400"))
	}
	switch body.Spec.Version {
	case "":
		return spec, AuthSpec{}, flowRefusal(legacyAnswer(http.StatusUnprocessableEntity, "Please provide a valid spec version"))
	case spec.Version:
	default:
		return spec, AuthSpec{}, flowRefusal(x.flowError("1413-400"))
	}
	auth, ok := spec.auth(body.Auth.SpecName)
	if !ok {
		return spec, auth, flowRefusal(x.flowError("1415-400", body.Auth.SpecName))
	}
	if name, missing := auth.missing(body.Auth.Params); missing {
		return spec, auth, flowRefusal(x.flowError("1304-400", name))
	}
	return spec, auth, nil
}

// cut returns s as EffectTruncate leaves it, never in the middle of a character.
func (p plan) cut(s string) string {
	if !p.truncate || len(s) <= p.bytes {
		return s
	}
	n := p.bytes
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
