package flowtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Identifiers of the Databricks source.
const (
	DatabricksSpecID      = "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b"
	DatabricksSpecVersion = "1.0"
	DatabricksAuthSpec    = "Access Token Authentication"
)

// Spec is a connection spec: a kind of connector.
type Spec struct {
	ID        string
	Name      string
	Version   string
	AuthSpecs []AuthSpec
}

// AuthSpec is one way to authenticate with a connector. Params that it does not name are accepted.
type AuthSpec struct {
	Name     string
	Required []string // a create or update without one of these gets 1304-400
	Optional []string
	Secret   []string // of the above, those answered as "xxxx"
}

// Databricks returns the connection spec that every emulator has.
func Databricks() Spec {
	return Spec{
		ID: DatabricksSpecID, Name: "databricks", Version: DatabricksSpecVersion,
		AuthSpecs: []AuthSpec{{
			Name:     DatabricksAuthSpec,
			Required: []string{"domain", "clusterId", "accessToken", "database"},
			Optional: []string{"catalog"},
			Secret:   []string{"accessToken"},
		}},
	}
}

func (s Spec) auth(name string) (AuthSpec, bool) {
	i := slices.IndexFunc(s.AuthSpecs, func(a AuthSpec) bool { return a.Name == name })
	if i < 0 {
		return AuthSpec{}, false
	}
	return s.AuthSpecs[i], true
}

// missing returns the first mandatory param that is absent, empty or no text.
func (a AuthSpec) missing(params map[string]any) (string, bool) {
	for _, name := range a.Required {
		if s, ok := params[name].(string); !ok || s == "" {
			return name, true
		}
	}
	return "", false
}

func (a AuthSpec) schema() map[string]any {
	props := map[string]any{}
	for _, name := range slices.Concat(a.Required, a.Optional) {
		prop := map[string]any{"type": "string"}
		if slices.Contains(a.Secret, name) {
			prop["format"] = "password"
		}
		props[name] = prop
	}
	return map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
		"properties": props, "required": a.Required,
	}
}

func (s Spec) view() map[string]any {
	auth := make([]map[string]any, 0, len(s.AuthSpecs))
	for _, a := range s.AuthSpecs {
		auth = append(auth, map[string]any{"name": a.Name, "type": a.Name, "spec": a.schema()})
	}
	return map[string]any{
		"id": s.ID, "name": s.Name, "version": s.Version, "type": "base-connection", "authSpec": auth,
		"attributes": map[string]any{"isSource": true, "isDraftModeSupported": true},
	}
}

// secretNames returns the names of all JSON fields that may hold a secret.
func secretNames(specs []Spec) map[string]bool {
	names := map[string]bool{"accessToken": true, "client_secret": true, "password": true}
	for _, s := range specs {
		for _, a := range s.AuthSpecs {
			for _, name := range a.Secret {
				names[name] = true
			}
		}
	}
	return names
}

func (e *Emulator) spec(id string) (Spec, bool) {
	i := slices.IndexFunc(e.specs, func(s Spec) bool { return s.ID == id })
	if i < 0 {
		return Spec{}, false
	}
	return e.specs[i], true
}

// listSpecs answers GET /connectionSpecs, all on one page.
func (x *exchange) listSpecs() answer {
	items := make([]map[string]any, 0, len(x.em.specs))
	for _, s := range x.em.specs {
		items = append(items, s.view())
	}
	return jsonAnswer(200, map[string]any{"items": items, "_links": links{}})
}

// getSpec answers GET /connectionSpecs/{id}.
func (x *exchange) getSpec() answer {
	s, ok := x.em.spec(x.id)
	if !ok {
		return x.notFound("connectionSpecs")
	}
	return jsonAnswer(200, map[string]any{"items": []any{s.view()}})
}

// exploreTables are the tables of every connection.
var exploreTables = []string{"orders", "customers"}

type tableView struct {
	Type      string `json:"type"`
	Name      string `json:"name"`
	Path      string `json:"path"`
	Preview   bool   `json:"canPreview"`
	HasSchema bool   `json:"canFetchSchema"`
}

type column struct {
	Name    string  `json:"name"`
	Type    string  `json:"type"`
	XDMType string  `json:"meta:xdmType,omitempty"`
	XDM     xdmType `json:"xdm"`
}

type xdmType struct {
	Type   string `json:"type"`
	Format string `json:"format,omitempty"`
}

// explore answers GET /connections/{id}/explore for objectType root and table.
func (x *exchange) explore() answer {
	c, refusal := x.found()
	if refusal != nil {
		return *refusal
	}
	database := fmt.Sprint(c.params["database"])
	switch kind := strings.ToLower(x.query.Get("objectType")); kind {
	case "root":
		return jsonAnswer(http.StatusOK, tablesOf(database))
	case "table":
		return x.exploreTable(database)
	default:
		return x.flowError("1453-400", "objectType="+kind)
	}
}

func tablesOf(database string) []tableView {
	out := make([]tableView, 0, len(exploreTables))
	for _, name := range exploreTables {
		out = append(out, tableView{"table", name, database + "." + name, true, true})
	}
	return out
}

func (x *exchange) exploreTable(database string) answer {
	object := x.query.Get("object")
	known := slices.ContainsFunc(tablesOf(database), func(t tableView) bool { return t.Path == object })
	if !known {
		return x.flowError("1453-400", "object="+object)
	}
	columns := []column{
		{Name: "order_id", Type: "string", XDM: xdmType{Type: "string"}},
		{Name: "updated_at", Type: "string", XDMType: "date-time", XDM: xdmType{"string", "date-time"}},
	}
	return jsonAnswer(http.StatusOK, map[string]any{
		"format": "flat", "schema": map[string]any{"columns": columns},
	})
}
