package flowtest

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"strings"
	"time"
)

// The states of a connection. Adobe does not tell how it calls the state of a draft.
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
		a := x.notFound("connections")
		return nil, &a
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
