package flowtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
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
	if p.stored(HabitLowerIDs) { // such a service minds no case in them
		body.Spec.ID = strings.ToLower(body.Spec.ID)
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
	c := conn{
		in: x.scope(), name: body.Name, description: p.cut(body.Description),
		specID: body.Spec.ID, specVersion: body.Spec.Version, specName: auth.Name,
		params: body.Auth.Params, secret: auth.Secret, draft: draft || p.state == stateDraft, fixed: p.state,
		created: now, updated: now, listedAt: now.Add(max(p.lag, x.em.cfg.ListLag)), readyAt: now.Add(p.initializing),
		creator: x.apiKey(), updater: x.apiKey(), lastOp: "create",
	}
	for _, f := range p.stores {
		for _, h := range f.Habits {
			habits[h](&c, f.Bytes)
		}
	}
	made := x.em.store.add(c, p.unique != nil)
	if made == nil {
		return legacyAnswer(cmp.Or(p.unique.Status, http.StatusConflict), p.unique.text(fmt.Sprintf("A connection with the name '%s' already exists.", c.name)))
	}
	return jsonAnswer(http.StatusCreated, idEtag{made.id, made.etag}).with("Location", flowBase+"/connections/"+made.id)
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

// cut returns s as EffectTruncate leaves it.
func (p plan) cut(s string) string {
	if !p.truncate {
		return s
	}
	return shortened(s, p.bytes)
}

// stored reports whether a new connection is stored by that habit.
func (p plan) stored(h Habit) bool {
	return slices.ContainsFunc(p.stores, func(f Fault) bool { return slices.Contains(f.Habits, h) })
}
