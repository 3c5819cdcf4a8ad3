// Package environ keeps the environment that the process was started with.
//
// It is initialised before go.opentelemetry.io/auto/sdk, which Go does in the order of import paths, and takes
// out of the process's environment what that package would write to stderr about before the program has begun.
package environ

import (
	"os"
	"strconv"
	"strings"
)

// All is the environment as it was, in the form of os.Environ.
var All = os.Environ()

func init() {
	for _, pair := range All {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "OTEL_") || !strings.HasSuffix(name, "_LIMIT") {
			continue
		}
		if _, err := strconv.Atoi(value); err != nil {
			_ = os.Unsetenv(name)
		}
	}
}
