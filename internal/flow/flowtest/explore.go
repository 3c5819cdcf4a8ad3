package flowtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

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
