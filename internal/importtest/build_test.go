package importtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	continued = regexp.MustCompile(`\\\n\s*`)
	goBuild   = regexp.MustCompile(`\bgo build .* \./cmd/worker\b`)
	output    = regexp.MustCompile(` -o \S+`)
)

// buildCommands returns the commands by which a file builds the worker, without where it puts it.
func buildCommands(script string) (out []string) {
	for _, command := range goBuild.FindAllString(continued.ReplaceAllString(script, ""), -1) {
		out = append(out, output.ReplaceAllString(command, ""))
	}
	return out
}

// CI and image build the worker by the same command, so that what CI compares is what runs.
func TestOneWayToBuild(t *testing.T) {
	t.Parallel()
	const want = `go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${REVISION}" ./cmd/worker`
	for _, name := range []string{"Dockerfile", ".ci/run"} {
		script := text(t, name)
		if got := buildCommands(script); len(got) != 1 || got[0] != want {
			t.Errorf("%s builds by %q, want %q", name, got, want)
		}
		if !strings.Contains(script, "CGO_ENABLED=0") {
			t.Errorf("%s builds with cgo", name)
		}
	}
	// The linker says nothing of a variable that is not there.
	stamped := regexp.MustCompile(`(?m)^var version, commit string$`)
	if !stamped.MatchString(text(t, "cmd/worker/version.go")) {
		t.Error("cmd/worker/version.go does not have the variables that the linker sets")
	}
}

// The image holds the worker, certificates and a licence: no shell, no root, nothing that a build left.
func TestImageIsBare(t *testing.T) {
	t.Parallel()
	_, runtime, ok := strings.Cut(text(t, "Dockerfile"), "\nFROM ${RUNTIME}\n")
	if !ok || strings.Contains(runtime, "\nFROM ") {
		t.Fatal("the last stage is not FROM ${RUNTIME}")
	}
	if !strings.Contains(text(t, "Dockerfile"), "\nARG RUNTIME=scratch\n") {
		t.Error("RUNTIME is not scratch by default")
	}
	for _, line := range strings.Split(continued.ReplaceAllString(runtime, ""), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "", "#", "ARG", "LABEL", "EXPOSE", "STOPSIGNAL":
		case "USER":
			if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(rest) {
				t.Errorf("it runs as %s; want numbers that aren't root's", rest)
			}
		case "COPY":
			if !regexp.MustCompile(`^--from=build (/etc/ssl/certs/ca-certificates\.crt|/out/\w+|/src/LICENSE) `).MatchString(rest) {
				t.Errorf("it holds what it does not need: %s", line)
			}
		case "ENTRYPOINT", "CMD", "HEALTHCHECK":
			if strings.Contains(rest, "sh") && !strings.Contains(rest, "/usr/local/bin/worker") || !strings.Contains(rest, "[") {
				t.Errorf("it needs a shell: %s", line)
			}
		default:
			t.Errorf("%q; want nothing to be run or added in the last stage", line)
		}
	}
	ignore := strings.Split(text(t, ".dockerignore"), "\n")
	if !strings.Contains("\n"+strings.Join(ignore, "\n"), "\n*\n") {
		t.Error(".dockerignore lets in what it does not name")
	}
}
