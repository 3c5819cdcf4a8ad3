package importtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// builtIn is a module that is part of the program.
type builtIn struct {
	Path, Version string
	Sum           string // as in go.sum
	Dir           string // where its sources are on this machine
	Main          bool
	Replace       *builtIn
}

// goJSON runs the go command and reads the JSON values that it prints.
func goJSON[T any](t *testing.T, args ...string) (out []T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0") // as the image is built: other systems need other modules
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, stderr.Bytes())
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
}

// programModules returns the modules that the worker is built of, without itself, sorted by path.
func programModules(t *testing.T) (mods []builtIn) {
	t.Helper()
	watchTree(t)
	for _, file := range []string{"../../go.mod", "../../go.sum"} {
		if _, err := os.Stat(file); err != nil { // also for go test's cache
			t.Fatal(err)
		}
	}
	type pkg struct{ Module *builtIn }
	seen := map[string]bool{}
	for _, p := range goJSON[pkg](t, "list", "-deps", "-json=Module", "./cmd/worker") {
		if m := p.Module; m != nil && !m.Main && !seen[m.Path] {
			seen[m.Path] = true
			mods = append(mods, *m)
		}
	}
	slices.SortFunc(mods, func(a, b builtIn) int { return strings.Compare(a.Path, b.Path) })
	if len(mods) < 10 {
		t.Fatalf("only %d modules", len(mods))
	}
	return mods
}

// signs are words by which a licence's text is known.
var signs = map[string]string{ // :: SPDX id that may be built in → part of its text, blanks made one
	"Apache-2.0":   "Apache License Version 2.0",
	"MIT":          "Permission is hereby granted, free of charge, to any person obtaining a copy",
	"BSD-2-Clause": "Redistribution and use in source and binary forms",
	"BSD-3-Clause": "Neither the name of",
	"MPL-2.0":      "Mozilla Public License",
}

// review is one line of .ci/licences.
type review struct{ module, licence, digest string }

func readReviews(t *testing.T) []review {
	t.Helper()
	text, err := os.ReadFile("../../.ci/licences")
	if err != nil {
		t.Fatal(err)
	}
	var out []review
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		switch f := strings.Fields(line); len(f) {
		case 0:
		case 3:
			out = append(out, review{f[0], f[1], f[2]})
		default:
			t.Errorf("%q: want module, licence and digest", line)
		}
	}
	return out
}

// licenceText returns the licence file in a module's folder.
func licenceText(dir string) ([]byte, error) {
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return text, nil
		}
	}
	return nil, errors.New("it has no licence file")
}

// Nobody ships a module whose licence nobody has read, or whose licence has changed since.
func TestLicencesAreReviewed(t *testing.T) {
	t.Parallel()
	mods, reviews := programModules(t), readReviews(t)
	for _, m := range mods {
		text, err := licenceText(m.Dir)
		if err != nil {
			t.Errorf("%s: %v", m.Path, err)
		} else if problem := reviewed(m.Path, text, reviews); problem != "" {
			t.Error(problem)
		}
	}
	for _, r := range reviews {
		if !slices.ContainsFunc(mods, func(m builtIn) bool { return m.Path == r.module }) {
			t.Errorf(".ci/licences: %s is not built in any more; take it out", r.module)
		}
	}
}

// reviewed returns what is wrong with a module's licence, or nothing.
func reviewed(module string, text []byte, reviews []review) string {
	digest := fmt.Sprintf("%x", sha256.Sum256(text))
	i := slices.IndexFunc(reviews, func(r review) bool { return r.module == module })
	if i < 0 {
		return fmt.Sprintf("%s: its licence is not in .ci/licences; read it, then add: %s <SPDX id> %s", module, module, digest)
	}
	r := reviews[i]
	sign, may := signs[r.licence]
	switch {
	case !may:
		return fmt.Sprintf("%s: %s is none of the licences that may be built in", module, r.licence)
	case r.digest != digest:
		return fmt.Sprintf("%s: its licence file is another than was reviewed; read it, then write down %s", module, digest)
	case !strings.Contains(strings.Join(strings.Fields(string(text)), " "), sign):
		return fmt.Sprintf("%s: its licence does not read like %s", module, r.licence)
	}
	return ""
}

func TestUnreviewedLicencesAreSeen(t *testing.T) {
	t.Parallel()
	const text = "Permission is hereby granted, free of charge,\n  to any person obtaining a copy"
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	for want, reviews := range map[string][]review{
		"":                      {{"other", "MIT", "x"}, {"m", "MIT", digest}},
		"not in .ci/licences":   {{"other", "MIT", digest}},
		"none of the licences":  {{"m", "AGPL-3.0", digest}},
		"another than was":      {{"m", "MIT", "x"}},
		"not read like Apache-": {{"m", "Apache-2.0", digest}},
	} {
		got := reviewed("m", []byte(text), reviews)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// directModules returns what go.mod requires for its own sake.
func directModules(t *testing.T) (direct []string) {
	t.Helper()
	type goMod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []any
	}
	file := goJSON[goMod](t, "mod", "edit", "-json")[0]
	for _, r := range file.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	if len(file.Replace) > 0 {
		t.Error("go.mod replaces modules; what is named in it should be what is built in")
	}
	return direct
}

// The README says of each module that go.mod names what it is for, and names no other.
func TestReadmeSaysWhatModulesAreFor(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range explained(string(text), directModules(t)) {
		t.Error(problem)
	}
}

// explained returns what is wrong with the table of modules in a README.
func explained(readme string, direct []string) (problems []string) {
	_, table, _ := strings.Cut(readme, "| module | for |")
	table, _, _ = strings.Cut(table, "\n\n")
	said := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, module := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				said[module] = strings.TrimSpace(cells[2])
			}
		}
	}
	for _, module := range direct {
		if said[module] == "" {
			problems = append(problems, module+": go.mod requires it, and the README does not say what for")
		}
		delete(said, module)
	}
	for module := range said {
		problems = append(problems, module+": the README says what it is for, and go.mod does not require it")
	}
	return problems
}

func TestUnexplainedModulesAreSeen(t *testing.T) {
	t.Parallel()
	const readme = "text\n| module | for |\n|---|---|\n| `a/b` | this |\n| `c`, `d` | that |\n| `e` | |\n\n| `f` | other |\n"
	for want, direct := range map[string][]string{
		"":                        {"a/b", "c", "d"},
		"e: go.mod requires it":   {"a/b", "c", "d", "e"},
		"f: go.mod requires it":   {"a/b", "c", "d", "f"},
		"d: the README says what": {"a/b", "c"},
	} {
		got := slices.DeleteFunc(explained(readme, direct), func(p string) bool { return strings.HasPrefix(p, "e: the README") })
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%q: %q, want %q", direct, got, want)
		}
	}
}
