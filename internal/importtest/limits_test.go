package importtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mustHave are the fields without which a value of the type may wait, or read, for ever.
var mustHave = map[string][]string{ // :: package path.type → fields
	"net/http.Server":    {"ReadHeaderTimeout", "ReadTimeout", "WriteTimeout", "IdleTimeout", "MaxHeaderBytes"},
	"net/http.Client":    {"Timeout"},
	"net/http.Transport": {"TLSHandshakeTimeout", "IdleConnTimeout", "MaxResponseHeaderBytes"},
	"net.Dialer":         {"Timeout"},
}

// mustNotUse are functions and variables with no limits of their own, or that serve what others registered.
var mustNotUse = []string{"net/http.Get", "net/http.Head", "net/http.Post", "net/http.PostForm", "net/http.DefaultClient", "net/http.DefaultTransport",
	"net/http.DefaultServeMux", "net/http.Handle", "net/http.HandleFunc", "net/http.Serve", "net/http.ServeTLS", "net/http.ListenAndServe",
	"net/http.ListenAndServeTLS", "net/http.FileServer", "net/http.FileServerFS", "net.Dial", "crypto/tls.Dial", "io/ioutil.ReadAll", "io/ioutil.ReadFile", "os.ReadFile"}

// mustBound are the readers to the end, each with what may be read so: the calls that bound a reader.
var mustBound = map[string][]string{ // :: package path.function → package path.function
	"io.ReadAll":                  {"io.LimitReader", "net/http.MaxBytesReader", "bytes.NewReader", "strings.NewReader"},
	"encoding/json.NewDecoder":    {"io.LimitReader", "net/http.MaxBytesReader", "bytes.NewReader", "strings.NewReader"},
	"encoding/xml.NewDecoder":     {},
	"gopkg.in/yaml.v3.NewDecoder": {},
}

// onlyOps are imports that put handlers where they aren't asked for.
var onlyOps = map[string]string{"net/http/pprof": "internal/ops", "expvar": ""} // :: import → the package that may

// bounded are the exceptions, each with what bounds it instead. One that is not needed any more fails the test.
var bounded = map[string]string{ // :: "file: problem" → why it is fine
	"cmd/worker/print.go: ReadString reads on to a delimiter that may never come": "the answer of who sits at the terminal",
	"internal/flow/flowtest/admin.go: io.ReadAll of something unbounded":          "its caller hands in a MaxBytesReader",
}

// Nothing in the program waits or reads without a limit.
func TestEverythingIsBounded(t *testing.T) {
	t.Parallel()
	problems := map[string]bool{}
	files := 0
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir("../../"+top, func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			files++
			rel := strings.TrimPrefix(filepath.ToSlash(name), "../../")
			found, err := unbounded(rel, name, nil)
			for _, p := range found {
				problems[rel+": "+p] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(problems)) {
		if bounded[p] == "" {
			t.Errorf("%s; bound it, or say in `bounded` what does", p)
		}
	}
	for p := range bounded {
		if !problems[p] {
			t.Errorf("%q is no exception any more; take it out of `bounded`", p)
		}
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
}

func TestUnboundedThingsAreFound(t *testing.T) {
	t.Parallel()
	for src, want := range map[string][]string{
		`import "net/http"; var s = &http.Server{ReadHeaderTimeout: 1, ReadTimeout: 1, WriteTimeout: 1, IdleTimeout: 1, MaxHeaderBytes: 1}`: nil,
		`import "net/http"; var s = http.Server{ReadHeaderTimeout: 1, WriteTimeout: 1, IdleTimeout: 1, MaxHeaderBytes: 1}`:                  {"net/http.Server without ReadTimeout"},
		`import web "net/http"; var c = web.Client{}`:                                      {"net/http.Client without Timeout"},
		`import "net/http"; func f(c *http.Client, s *http.Server) {}`:                     nil,
		`import "net/http"; var c http.Client`:                                             {"net/http.Client without a literal of its own"},
		`import "net/http"; var c = new(http.Client)`:                                      {"net/http.Client without a literal of its own"},
		`import "net/http"; type t struct { http.Server }`:                                 {"net/http.Server without a literal of its own"},
		`import "net/http"; var r, err = http.Get("x")`:                                    {"uses net/http.Get"},
		`import "net/http"; var f = http.ListenAndServe`:                                   {"uses net/http.ListenAndServe"},
		`import . "net/http"; var f = Get`:                                                 {"imports net/http by dot"},
		`import "io"; var b, err = io.ReadAll(r)`:                                          {"io.ReadAll of something unbounded"},
		`import "io"; var b, err = io.ReadAll(io.LimitReader(r, 5))`:                       nil,
		`import "io"; var f = io.ReadAll`:                                                  {"io.ReadAll of something unbounded"},
		`import ("io"; "net/http"); var b, err = io.ReadAll(http.MaxBytesReader(w, r, 5))`: nil,
		`import ("encoding/json"; "os"); var d = json.NewDecoder(os.Stdin)`:                {"encoding/json.NewDecoder of something unbounded"},
		`import ("encoding/json"; "bytes"); var d = json.NewDecoder(bytes.NewReader(b))`:   nil,
		`import _ "net/http/pprof"`:                                                        {"imports net/http/pprof"},
		`import "crypto/tls"; var c = tls.Config{InsecureSkipVerify: true}`:                {"sets InsecureSkipVerify"},
		`import "crypto/tls"; func f(c *tls.Config) { c.InsecureSkipVerify = b }`:          {"sets InsecureSkipVerify"},
		`import "crypto/tls"; func f(c *tls.Config) bool { return c.InsecureSkipVerify }`:  nil,
		`import "net"; type t struct { net.Dialer }; var v = t{net.Dialer{Timeout: 5}}`:    nil,
		`import "bufio"; var line, err = bufio.NewReader(r).ReadString('\n')`:              {"ReadString reads on to a delimiter that may never come"},
		`import "net"; var d net.Dialer`:                                                   {"net.Dialer without a literal of its own"},
		`type t struct{}; func (http t) Get() {}; var http t; var f = http.Get`:            nil,
	} {
		got, err := unbounded("x/x.go", "x.go", []byte("package x; "+src))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s:\n\t%q, %v, want %q", src, got, err, want)
		}
	}
}

// unbounded returns what is wrong with one file, whose place in the module is rel.
func unbounded(rel, name string, src any) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	s := sight{imports: map[string]string{}, fine: map[ast.Node]bool{}, held: map[string]bool{}, made: map[string]bool{}}
	for _, imp := range file.Imports {
		s.importing(imp, path.Dir(rel))
	}
	ast.Inspect(file, s.see)
	for of := range s.held {
		if !s.made[of] {
			s.add("%s without a literal of its own", of)
		}
	}
	return s.problems, nil
}

// sight walks over one file, parents first.
type sight struct {
	imports  map[string]string // :: name in the file → import path
	fine     map[ast.Node]bool // what its parent has looked at already
	held     map[string]bool   // :: type of mustHave that a struct of the file holds → true
	made     map[string]bool   // :: type of mustHave that the file has a literal of → true
	problems []string
}

func (s *sight) add(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *sight) importing(imp *ast.ImportSpec, dir string) {
	of, _ := strconv.Unquote(imp.Path.Value)
	name := path.Base(of)
	if imp.Name != nil {
		name = imp.Name.Name
	}
	if only, special := onlyOps[of]; special && only != dir {
		s.add("imports %s", of)
	}
	if name == "." {
		s.add("imports %s by dot", of)
	}
	s.imports[strings.TrimSuffix(name, ".v3")] = of
}

// name returns what an expression such as http.Get stands for, or nothing.
func (s *sight) name(e ast.Expr) string {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if pkg, ok := sel.X.(*ast.Ident); ok && s.imports[pkg.Name] != "" {
		return s.imports[pkg.Name] + "." + sel.Sel.Name
	}
	return ""
}

func (s *sight) see(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.StarExpr:
		s.fine[n.X] = mustHave[s.name(n.X)] != nil // a pointer to one that was made elsewhere
	case *ast.StructType:
		s.fields(n)
	case *ast.CompositeLit:
		s.literal(n)
	case *ast.CallExpr:
		s.call(n)
	case *ast.AssignStmt:
		for _, to := range n.Lhs {
			if sel, ok := to.(*ast.SelectorExpr); ok {
				s.setting(sel.Sel)
			}
		}
	case *ast.SelectorExpr:
		s.use(n)
	}
	return true
}

// fields notes what the struct holds: that has to be made, with its limits, in the same file.
func (s *sight) fields(n *ast.StructType) {
	for _, f := range n.Fields.List {
		if of := s.name(f.Type); mustHave[of] != nil {
			s.held[of] = true
			s.fine[f.Type] = true
		}
	}
}

func (s *sight) literal(n *ast.CompositeLit) {
	given := map[string]bool{}
	for _, e := range n.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				given[key.Name] = true
				s.setting(key)
			}
		}
	}
	of := s.name(n.Type)
	for _, field := range mustHave[of] {
		if !given[field] {
			s.add("%s without %s", of, field)
		}
	}
	if n.Type != nil {
		s.made[of] = true
		s.fine[n.Type] = true
	}
}

func (s *sight) setting(field *ast.Ident) {
	if field.Name == "InsecureSkipVerify" {
		s.add("sets %s", field.Name)
	}
}

func (s *sight) call(n *ast.CallExpr) {
	may, reads := mustBound[s.name(n.Fun)]
	if !reads || len(n.Args) != 1 {
		return
	}
	arg, ok := n.Args[0].(*ast.CallExpr)
	s.fine[n.Fun] = ok && slices.Contains(may, s.name(arg.Fun))
}

func (s *sight) use(n *ast.SelectorExpr) {
	of := s.name(n)
	_, reads := mustBound[of]
	switch {
	case s.fine[n]:
	case of == "" && (n.Sel.Name == "ReadString" || n.Sel.Name == "ReadBytes"): // of bufio.Reader and bytes.Buffer
		s.add("%s reads on to a delimiter that may never come", n.Sel.Name)
	case slices.Contains(mustNotUse, of):
		s.add("uses %s", of)
	case mustHave[of] != nil:
		s.add("%s without a literal of its own", of)
	case reads:
		s.add("%s of something unbounded", of)
	}
}
