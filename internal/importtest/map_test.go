package importtest

const module = "github.com/flow-worker/flow-worker/"

// The third-party modules that have a short name in the map.
const (
	backoff    = "github.com/cenkalti/backoff/v4"
	metrics    = "github.com/prometheus/client_golang"
	natsClient = "github.com/nats-io/nats.go"
	natsServer = "github.com/nats-io/nats-server/v2"
	vaultAPI   = "github.com/hashicorp/vault/api"
	xsync      = "golang.org/x/sync"
	jsonText   = "github.com/go-json-experiment/json/jsontext"
	otel       = "go.opentelemetry.io/otel" // its SDK and exporters are modules below it
)

// allowed is the map: what each package may import beside the standard library, as paths below this
// module or as import path prefixes of other modules. "*" allows everything.
var allowed = map[string][]string{
	// The hub knows no technology.
	"internal/provision": {backoff, "golang.org/x/text"},
	// The spokes know the hub and the wire format, never each other.
	"internal/event":    {"internal/provision", "internal/scrub", "github.com/cloudevents/sdk-go/v2", "github.com/go-json-experiment/json"},
	"internal/ledger":   {"internal/provision", "internal/jsread", natsClient, backoff, "github.com/go-json-experiment/json"},
	"internal/consumer": {"internal/provision", "internal/event", natsClient, metrics, backoff, "golang.org/x/net"},
	"internal/flow":     {"internal/provision", "internal/scrub", backoff, "golang.org/x/oauth2", xsync, metrics, jsonText},
	"internal/vault":    {"internal/provision", "internal/scrub", vaultAPI, backoff, metrics},
	"internal/limit":    {"internal/provision", "github.com/sony/gobreaker/v2", metrics},
	"internal/inquiry":  {"internal/provision", natsClient},
	"internal/ops":      {"internal/provision", "internal/story", metrics, xsync},
	"internal/tracing":  {"internal/provision", "internal/scrub", otel},
	// What two spokes need alike, or a spoke and the commands, and the hub does not.
	"internal/jsread": {natsClient},
	"internal/scrub":  {"internal/provision"},
	"internal/story":  {"internal/provision"},

	// Only the program knows all, and only its demo and its commands know the stand-ins below.
	"cmd/worker": {"*"},
	"cmd/worker/internal/app": {"cmd/worker/internal/settings", "internal/consumer", "internal/event", "internal/flow", "internal/inquiry",
		"internal/ledger", "internal/ops", "internal/limit", "internal/provision", "internal/tracing", "internal/vault", natsClient, metrics, vaultAPI, xsync},
	"cmd/worker/internal/demo": {"*"},
	"cmd/worker/internal/doctor": {"cmd/worker/internal/app", "cmd/worker/internal/settings", "internal/consumer", "internal/event", "internal/flow",
		"internal/ledger", "internal/provision", "internal/vault", natsClient, metrics},
	"cmd/worker/internal/environ":   {},
	"cmd/worker/internal/loopback":  {},
	"cmd/worker/internal/requester": {"internal/story", "internal/consumer", "internal/event", "internal/inquiry", "internal/jsread", "internal/ledger", "internal/provision", jsonText, natsClient, xsync},
	"cmd/worker/internal/settings":  {"github.com/spf13/pflag"},

	// Stand-ins for the world outside, for tests and the demo. Each is written without a look at the
	// code that it tests.
	"internal/natstest":            {natsServer, natsClient},
	"internal/flow/flowtest":       {"internal/provision", "golang.org/x/text"},
	"internal/vault/vaulttest":     {},
	"internal/vault/vaultdev":      {},
	"internal/tracing/tracingtest": {"go.opentelemetry.io/proto/otlp", "google.golang.org/protobuf"},
	"internal/canary":              {},
	"internal/ledger/ledgertest":   {"internal/provision", "github.com/google/go-cmp"},

	// It measures the built worker from outside, and is no part of it.
	"bench": {"internal/consumer", "internal/natstest", "internal/vault/vaulttest", natsClient, "github.com/spf13/pflag"},

	// Whole programs are tried from outside; what they need to be watched by is theirs to say.
	"test/soak":          {"*"},
	"test/fairness":      {"*"},
	"test/confinement":   {"*"},
	"test/observability": {"*"},

	"internal/importtest": {},
	"deploy":              {"internal/consumer", "internal/event", "internal/inquiry", "internal/jsread", "internal/ledger"}, // its tests run them with the rights it grants
}

// forTests are what every package's tests may import on top of its own line: stand-ins and test libraries.
var forTests = []string{"internal/provision", "internal/natstest", "internal/flow/flowtest", "internal/vault/vaulttest", "internal/vault/vaultdev",
	"internal/ledger/ledgertest", "internal/tracing/tracingtest", "internal/canary", natsServer, natsClient, metrics, vaultAPI, "github.com/google/go-cmp", "go.uber.org/goleak",
	"github.com/nats-io/nkeys", "github.com/nats-io/jwt/v2", "gopkg.in/yaml.v3", "golang.org/x/net", "github.com/prometheus/common", "github.com/prometheus/client_model",
	"github.com/santhosh-tekuri/jsonschema/v6"}
