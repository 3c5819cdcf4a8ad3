package flowtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The states of a connection. Adobe does not say what it calls the state of a draft.
const (
	stateEnabled      = "enabled"
	stateInitializing = "initializing"
	stateDraft        = "draft"
)

// masked stands for a secret in answers.
const masked = "xxxx"

// view is a connection as the Flow Service shows it.
type view struct {
	ID            string   `json:"id"`
	CreatedAt     int64    `json:"createdAt"`
	UpdatedAt     int64    `json:"updatedAt"`
	CreatedBy     string   `json:"createdBy"`
	UpdatedBy     string   `json:"updatedBy"`
	CreatedClient string   `json:"createdClient"`
	UpdatedClient string   `json:"updatedClient"`
	SandboxID     string   `json:"sandboxId"`
	SandboxName   string   `json:"sandboxName"`
	OrgID         string   `json:"imsOrgId"`
	Name          string   `json:"name"`
	Description   string   `json:"description,omitempty"`
	Spec          specRef  `json:"connectionSpec"`
	State         string   `json:"state"`
	Auth          authView `json:"auth"`
	Version       string   `json:"version"`
	Etag          string   `json:"etag"`
	LastOperation lastOp   `json:"lastOperation"`
}

type specRef struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

type authView struct {
	SpecName string         `json:"specName"`
	Params   map[string]any `json:"params"`
}

type lastOp struct {
	Started   int64  `json:"started"`
	Updated   int64  `json:"updated"`
	Operation string `json:"operation"`
}

// idEtag is the answer to a create, an update and an action.
type idEtag struct {
	ID   string `json:"id,omitempty"`
	Etag string `json:"etag"`
}

func (c *conn) state(now time.Time) string {
	switch {
	case c.draft:
		return stateDraft
	case c.fixed != "":
		return c.fixed
	case now.Before(c.readyAt):
		return stateInitializing
	}
	return stateEnabled
}

// maskedParams returns a copy of the params without secrets.
func (c *conn) maskedParams() map[string]any {
	out := maps.Clone(c.params)
	for _, name := range c.secret {
		if _, ok := out[name]; ok {
			out[name] = masked
		}
	}
	return out
}

func (c *conn) view(now time.Time) view {
	return view{
		ID: c.id, CreatedAt: c.created.UnixMilli(), UpdatedAt: c.updated.UnixMilli(),
		CreatedBy: account(c.creator), UpdatedBy: account(c.updater),
		CreatedClient: c.creator, UpdatedClient: c.updater,
		SandboxID: sandboxID(c.in), SandboxName: c.in.sandbox, OrgID: c.in.org,
		Name: c.name, Description: c.description, Spec: specRef{c.specID, c.specVersion},
		State: c.state(now), Auth: authView{c.specName, c.maskedParams()},
		Version: c.etag, Etag: c.etag, LastOperation: lastOp{Operation: c.lastOp},
	}
}

// account returns the technical account of an API key.
func account(apiKey string) string {
	sum := sha256.Sum256([]byte(apiKey))
	return strings.ToUpper(hex.EncodeToString(sum[:12])) + "@techacct.adobe.com"
}

// sandboxID returns the id of a sandbox, always the same for the same names.
func sandboxID(in scope) string {
	sum := sha256.Sum256([]byte(in.org + "\x00" + in.sandbox))
	return formatUUID([16]byte(sum[:16]))
}

func (x *exchange) scope() scope { return scope{x.org, x.sandbox} }

func (x *exchange) apiKey() string { return x.r.Header.Get("x-api-key") }

// found returns the connection that the path names, or the 404.
func (x *exchange) found() (*conn, *answer) {
	c, ok := x.em.store.get(x.scope(), x.id)
	if !ok {
		return nil, refuse(x.notFound("connections"))
	}
	return c, nil
}

// get answers GET /connections/{id}.
func (x *exchange) get() answer {
	c, refusal := x.found()
	if refusal != nil {
		return *refusal
	}
	return jsonAnswer(http.StatusOK, map[string]any{"items": []view{c.view(x.now)}})
}

// remove answers DELETE /connections/{id}.
func (x *exchange) remove() answer {
	c, refusal := x.found()
	if refusal != nil {
		return *refusal
	}
	if c.state(x.now) == stateInitializing {
		return x.flowError("1417-400")
	}
	for !x.em.store.remove(c) { // changed meanwhile: the newer one goes, too
		if c, refusal = x.found(); refusal != nil {
			return *refusal
		}
	}
	return answer{status: http.StatusNoContent}
}

// test answers GET /connections/{id}/test.
func (x *exchange) test() answer {
	if _, refusal := x.found(); refusal != nil {
		return *refusal
	}
	return testResult(true)
}

func testResult(good bool) answer {
	return jsonAnswer(http.StatusOK, map[string]bool{"result": good})
}

// action answers POST /connections/{id}/action.
func (x *exchange) action() answer {
	c, refusal := x.found()
	if refusal != nil {
		return *refusal
	}
	switch op := strings.ToLower(x.query.Get("op")); op {
	case "publish":
	case "finalize", "finalize_update":
		return x.flowError("1402-400", op)
	default:
		return x.flowError("1453-400", op)
	}
	if !c.draft {
		return jsonAnswer(http.StatusOK, idEtag{c.id, c.etag})
	}
	published, ok := x.em.store.update(c, x.now, func(c *conn) {
		c.draft, c.fixed, c.lastOp, c.updater = false, "", "publish", x.apiKey()
	})
	if !ok {
		return x.flowError("1404-412")
	}
	return jsonAnswer(http.StatusOK, idEtag{published.id, published.etag})
}

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

// create answers POST /connections.
func (x *exchange) create() answer {
	p := x.plan
	body, refusal := x.createBody()
	if refusal != nil {
		return *refusal
	}
	if p.stored(HabitLowerIDs) { // such a service minds no case in them
		body.Spec.ID = strings.ToLower(body.Spec.ID)
	}
	auth, refusal := x.checkCreate(body)
	if refusal != nil {
		return *refusal
	}
	draft := x.query.Get("mode") == "draft"
	now := x.em.cfg.Clock() // a latency may have passed since x.now
	c := conn{
		in: x.scope(), name: body.Name, description: body.Description,
		specID: body.Spec.ID, specVersion: body.Spec.Version, specName: auth.Name,
		params: body.Auth.Params, secret: auth.Secret, draft: draft || p.state == stateDraft, fixed: p.state,
		created: now, updated: now, listedAt: now.Add(max(p.lag, x.em.cfg.ListLag)), readyAt: now.Add(p.initializing),
		creator: x.apiKey(), updater: x.apiKey(), lastOp: "create",
	}
	if p.truncate {
		c.description = shortened(c.description, p.bytes)
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
		return body, refuse(x.flowError("1405-400"))
	case json.Unmarshal(trimmed, &body) != nil:
		return body, refuse(badRequest("the body is not the JSON of a connection"))
	}
	return body, nil
}

// checkCreate finds the auth spec of body and checks its params.
func (x *exchange) checkCreate(body createBody) (AuthSpec, *answer) {
	if mode := x.query.Get("mode"); mode != "" && mode != "draft" {
		return AuthSpec{}, refuse(x.flowError("1453-400", mode))
	}
	spec, ok := x.em.spec(body.Spec.ID)
	if !ok {
		return AuthSpec{}, refuse(x.flowError("1413-400"))
	}
	switch body.Spec.Version {
	case "":
		return AuthSpec{}, refuse(legacyAnswer(http.StatusUnprocessableEntity, "Please provide a valid spec version"))
	case spec.Version:
	default:
		return AuthSpec{}, refuse(x.flowError("1413-400"))
	}
	auth, ok := spec.auth(body.Auth.SpecName)
	if !ok {
		return auth, refuse(x.flowError("1415-400", body.Auth.SpecName))
	}
	if name, missing := auth.missing(body.Auth.Params); missing {
		return auth, refuse(x.flowError("1304-400", name))
	}
	return auth, nil
}

// stored reports whether a new connection is stored by that habit.
func (p plan) stored(h Habit) bool {
	return slices.ContainsFunc(p.stores, func(f Fault) bool { return slices.Contains(f.Habits, h) })
}

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
		return nil, refuse(x.flowError("1405-400"))
	}
	if err := json.Unmarshal(body, &ops); err != nil {
		return nil, refuse(badRequest("the body is not a JSON array of patch operations"))
	}
	if len(ops) == 0 {
		return nil, refuse(x.flowError("1405-400"))
	}
	return ops, nil
}

// apply carries out one instruction on c.
func (x *exchange) apply(c *conn, op patchOp) *answer {
	switch op.Op {
	case "add", "replace", "remove":
	default:
		return refuse(x.flowError("1434-400", op.Op))
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
		return refuse(x.flowError("1414-400"))
	}
	return refuse(x.flowError("1455-400", "unsupported path "+op.Path))
}

func (x *exchange) applyText(to *string, op patchOp, removed bool) *answer {
	var text *string
	if removed || json.Unmarshal(op.Value, &text) != nil || text == nil {
		return refuse(x.flowError("1455-400", op.Path+" needs a text as its value"))
	}
	*to = *text
	return nil
}

func (x *exchange) applyParams(c *conn, op patchOp, removed bool) *answer {
	var params map[string]any
	if removed || json.Unmarshal(op.Value, &params) != nil || params == nil {
		return refuse(x.flowError("1455-400", "/auth/params needs an object as its value"))
	}
	spec, _ := x.em.spec(c.specID)
	auth, _ := spec.auth(c.specName)
	if name, missing := auth.missing(params); missing {
		return refuse(x.flowError("1304-400", name))
	}
	c.params = params
	return nil
}
