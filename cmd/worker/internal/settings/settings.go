// Package settings reads and checks the settings of the worker's commands.
//
// A setting is an environment variable; the flag of the same name in lower case with dashes beats it.
// Everything that is wrong is reported at once, by name. Nothing in here reads the process's own
// environment: the caller hands it in.
package settings

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Settings are the values of all variables. Those of groups that were not loaded have their defaults.
type Settings struct {
	NATSURL   string // one or several URLs, separated by commas; may hold user and password
	NATSCreds string // path of a credentials file; empty means none
	NATSNkey  string // path of a file with an NKey seed; empty means none
	NATSCA    string // path of a PEM file with the authorities to trust; empty means the system's
	NATSCert  string // path of the client certificate; needs NATSKey
	NATSKey   string // path of the client certificate's key

	NATSUser        string // with NATSPassword; without, NATSToken has it
	NATSPassword    string // secret
	NATSToken       string // secret
	NATSUserJWT     string // of a context: the user's JWT, as opposed to a file's path; needs NATSUserSeed
	NATSUserSeed    string // secret, likewise
	NATSTLSFirst    bool   // begin with TLS, before the server has greeted
	NATSJSDomain    string // JetStream domain of all streams; empty means that of the server
	NATSJSAPIPrefix string // likewise, as the subjects of an import; empty means the ordinary one
	NATSInboxPrefix string // where answers come in; empty means the user's own inbox
	NATSSocksProxy  string // URL of a SOCKS proxy, may hold user and password; empty means none
	NATSContext     string // the name of the context that the values came from; empty means none

	VaultAddr          string        // URL, plain http only to a loopback address, or unix://<path of a socket>
	VaultAgentAddr     string        // as VaultAddr, in whose place it is used; empty means none
	VaultToken         string        // secret; read where VaultAuth is "token"
	VaultTokenFile     string        // path of the file with the token, in place of VaultToken; it may not be there yet
	VaultNamespace     string        // empty means none
	VaultCACert        string        // path of a PEM file; empty means the system's authorities
	VaultCAPath        string        // path of a directory of PEM files; empty means none
	VaultClientCert    string        // path of the TLS client certificate; needs VaultClientKey
	VaultClientKey     string        // path of the TLS client key
	VaultTLSServerName string        // SNI host name; empty means the address's host
	VaultSkipVerify    bool          // refused unless VaultAddr is a loopback address
	VaultAuth          string        // "token", "none", "approle", "kubernetes" or "jwt"
	VaultAuthMount     string        // mount path of the auth method; empty means the method's name
	VaultRole          string        // role for "kubernetes" and "jwt"
	VaultRoleID        string        // role id for "approle"
	VaultSecretIDFile  string        // path of the file with the secret id for "approle"
	VaultJWTFile       string        // path of the token file for "jwt" and "kubernetes"
	VaultKVMount       string        // mount path of the KV engine
	VaultTenantPrefix  string        // below the mount, above the tenants
	VaultCacheTTL      time.Duration // how long a read is remembered; 0 means that it is not

	FlowURL     string        // base URL of the Flow Service, plain http only to a loopback address
	IMSURL      string        // base URL of the token service, plain http only to a loopback address
	FlowTimeout time.Duration // for one HTTP call

	HTTPAddr   string // metrics and health; port 0 means any free one
	StatusAddr string // status page; port 0 means any free one
	Pprof      bool   // serve /debug/pprof at StatusAddr

	Concurrency        int           // requests in flight in this process, from 1
	AckWait            time.Duration // of the consumer
	RetryInitial       time.Duration // first wait between two tries inside one delivery
	RetryDelayMax      time.Duration // longest wait between two tries inside one delivery
	RetryElapsed       time.Duration // past it the message goes back to the stream
	RedeliveryDelayMax time.Duration // longest rest in the stream
	SecretGrace        time.Duration // how long a secret must have been missing; 0 means that this is believed at once
	RequestDeadline    time.Duration // after a request's first attempt, at most 7 days
	Settle             time.Duration // how long an unknown POST is looked for before another is allowed
	ShutdownTimeout    time.Duration // what is unfinished then is given back
	AllowedDomains     []string      // lower-case hosts; a request's domain must be under one of them
	Replicas           int           // of the NATS objects: 1, 3 or 5
	StreamMaxBytes     int64         // max_bytes of each stream and of the ledger; 0 means none
	AnswerTenants      bool          // answer tenants who ask for their requests
	ManageStreams      bool          // create and upgrade the NATS objects at start

	LogLevel  slog.Level
	LogFormat string // "json" or "text"

	Tracing Tracing
}

// VaultServer returns where Vault's calls go: to the agent where there is one, as of Vault's own client.
func (s Settings) VaultServer() string { return cmp.Or(s.VaultAgentAddr, s.VaultAddr) }

// Source is where settings come from.
type Source struct {
	Environ  []string          // "NAME=value", as os.Environ returns it; an empty value counts as unset
	Flags    map[string]string // :: variable name → value, for the flags that were given
	Terminal bool              // the log goes to a terminal, so that text is the better default
}

// Origin says where a value comes from.
type Origin string

// The origins, weakest first.
const (
	FromDefault Origin = "default"
	FromContext Origin = "context" // the file that NATS_CONTEXT names
	FromEnv     Origin = "env"
	FromFlag    Origin = "flag"
)

// Value is one setting as it is shown to people. A secret's text is masked.
type Value struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
}

// Set is what Load returns.
type Set struct {
	Settings Settings
	Values   []Value  // in the order of the contract's table
	Warnings []string // odd, but no reason to refuse

	traceWarnings []string        // likewise, unless the SDK is disabled
	leftOut       map[string]bool // names of OTEL_ variables that are not followed
}

// Load reads the variables of the given groups from src, checks them one by one and against each
// other. Its error is *Invalid and holds every problem; the Set is filled as far as it could be even
// then, so that it can be shown.
func Load(src Source, groups ...Group) (Set, error) {
	set := Set{}
	env := map[string]string{} // :: name → value
	for _, pair := range src.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	bad := &Invalid{}
	fromContext := set.readContext(src, env, groups, bad)
	for _, v := range table(&set.Settings) {
		text, origin := v.lookup(src, env, fromContext, groups)
		var err error
		if text != "" || v.byDefault != "" {
			err = v.set(text)
		}
		if v.in(groups) {
			set.Values = append(set.Values, Value{v.name, v.show(text, err), origin})
		}
		switch {
		case err == nil:
		case v.group == Traces: // set for all programs of a platform
			set.leaveOut(v, text, err)
		case origin == FromContext:
			bad.add(v.name, "from NATS_CONTEXT "+err.Error())
		default:
			bad.add(v.name, err.Error())
		}
	}
	for _, g := range groups {
		switch g {
		case NATS:
			set.checkNATS(bad)
		case Vault:
			set.checkVault(bad)
		case Work:
			set.checkWork(bad)
		case Traces:
			set.checkTraces(env)
		}
	}
	set.Warnings = append(set.Warnings, unknownNames(env)...)
	if len(bad.Problems) > 0 {
		return set, bad
	}
	return set, nil
}

// lookup returns the text of v and where it comes from. Outside groups it is always the default.
func (v variable) lookup(src Source, env, fromContext map[string]string, groups []Group) (string, Origin) {
	if v.in(groups) {
		if text, ok := src.Flags[v.name]; ok {
			return clean(v.name, text), FromFlag
		}
		if text := clean(v.name, env[v.name]); text != "" {
			return text, FromEnv
		}
		if text := fromContext[v.name]; text != "" {
			return text, FromContext
		}
	}
	if v.name == "LOG_FORMAT" && src.Terminal {
		return formatText, FromDefault
	}
	return v.byDefault, FromDefault
}

// clean takes off what files and shells leave around a value: blanks and line breaks at its ends, and one pair of
// quotation marks. A password may have such marks itself, so of one only line breaks are taken.
func clean(name, text string) string {
	text = strings.TrimPrefix(text, "\ufeff") // a byte order mark
	if name == natsPassword {
		return strings.TrimRight(text, "\r\n")
	}
	text = strings.TrimSpace(text)
	if n := len(text); n > 1 && text[0] == text[n-1] && (text[0] == '"' || text[0] == '\'') {
		text = strings.TrimSpace(text[1 : n-1])
	}
	return text
}

// Problem is one thing that is wrong with one variable.
type Problem struct {
	Name string `json:"name"`
	Text string `json:"problem"` // what is wrong and what would be right, never a secret

	Missing bool `json:"missing,omitempty"` // there is no value, as opposed to a wrong one
}

// Invalid is the error of Load.
type Invalid struct {
	Problems []Problem
}

// Error lists all problems, one a line.
func (e *Invalid) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d wrong setting", len(e.Problems))
	if len(e.Problems) > 1 {
		b.WriteByte('s')
	}
	b.WriteByte(':')
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s: %s", p.Name, p.Text)
	}
	return b.String()
}

// has reports whether a problem with the named variable is known already, so that checks across
// variables don't build on a value that could not be read.
func (e *Invalid) has(names ...string) bool {
	return slices.ContainsFunc(e.Problems, func(p Problem) bool { return slices.Contains(names, p.Name) })
}

func (e *Invalid) add(name, text string) {
	e.Problems = append(e.Problems, Problem{Name: name, Text: text})
}

func (e *Invalid) missing(name, text string) {
	e.Problems = append(e.Problems, Problem{Name: name, Text: text, Missing: true})
}

// OnlyMissing reports whether every problem is a value that is yet to be set.
func (e *Invalid) OnlyMissing() bool {
	return !slices.ContainsFunc(e.Problems, func(p Problem) bool { return !p.Missing })
}
