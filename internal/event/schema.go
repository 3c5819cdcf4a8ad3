package event

import (
	"bytes"
	"embed"
	"io/fs"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed schema/*.json
var schemaFiles embed.FS

// Schemas returns the published JSON Schemas (2020-12) of the events' data, as files named
// connection-create.v1.json, connection-created.v1.json and connection-failed.v1.json.
func Schemas() fs.FS {
	sub, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

// createSchema is the compiled schema of a request's data. It is never changed.
var createSchema = sync.OnceValue(func() *jsonschema.Schema { return mustCompile("connection-create.v1.json") })

// mustCompile compiles one of the embedded schemas; they are part of the program, so that one which
// does not compile is a bug.
func mustCompile(name string) *jsonschema.Schema {
	text, err := fs.ReadFile(Schemas(), name)
	if err != nil {
		panic(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		panic(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		panic(err)
	}
	return c.MustCompile(name)
}
