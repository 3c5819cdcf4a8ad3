package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// maxAnswer bounds an answer, in bytes. Vault's storage refuses entries above 1 MiB.
const maxAnswer = 2 << 20

// The errors of answers that are none, beside foreignAnswer. A redirect's place is upstream's text, so it is left out.
var (
	errRedirected = errors.New("the answer of Vault, or of what stands before it, redirects to another address, and no credential goes there; " +
		"set VAULT_ADDR to one that answers itself, and let standbys forward requests")
	// The body of a 101 is the connection, and no deadline ends the reading of that.
	errUpgraded = errors.New("the answer of Vault, or of what stands before it, is 101: it wants to speak something else than HTTP")
	errWrapped  = errors.New("the answer is a wrapping token, which the worker does not unwrap; take min_wrapping_ttl out of the policy for this path, " +
		"and the header X-Vault-Wrap-TTL out of VAULT_HEADERS and of what stands before Vault")
	errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
)

// foreignAnswer is the error of a call that was answered, but not by Vault: by a proxy that has no route or
// no backend, a captive portal, a wrong address. It says nothing of a secret, a token or a login. Its text
// holds nothing of the answer, which may be anything, such as an echo of the request with its token.
type foreignAnswer struct {
	status int
	what   string // what is missing or not as Vault has it
}

// Error says what the answer lacks, and what to look at.
func (e *foreignAnswer) Error() string {
	return fmt.Sprintf("HTTP %d, %s: the answer is not Vault's own but of something in its place; check VAULT_ADDR and what stands before Vault", e.status, e.what)
}

// transport lets only answers through that are Vault's own, so that whatever reads them need not ask: no redirect,
// nothing above maxAnswer, nothing that genuine refuses. Statuses that decide nothing, whoever sent them, pass as
// they are. It also passes on the trace context that a request is made for: Vault does not look at it, but what
// stands before it may.
type transport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if e := provision.PurposeOf(r.Context()); e != nil {
		r = r.Clone(r.Context())
		e.Trace.Inject(r.Header.Set)
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, errRedirected
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return nil, errUpgraded
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case len(body) == maxAnswer:
		return nil, errTooLarge
	case !decidesNothing(resp.StatusCode):
		if err := genuine(r.URL.Path, resp.StatusCode, body); err != nil {
			return nil, err
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// routeOf returns what a request asks for without the names that are in its path.
func routeOf(r *http.Request) string {
	if system, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/"); system == "sys" || system == "auth" {
		return "/v1/" + system + "/{path}"
	}
	return "/v1/{mount}/{path}"
}

// decidesNothing reports whether a status only means that the call has to be tried again.
func decidesNothing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusPreconditionFailed, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// genuine returns a *foreignAnswer or errWrapped where an answer to a request for path is not Vault's own.
//
// Vault's success has a request_id. Its refusal is a list of errors, perhaps with data and warnings, and nothing else;
// a 404 may be a success without errors, whose data or warnings say what there is instead. Its health has no frame.
func genuine(path string, status int, body []byte) error {
	foreign := func(what string) error { return &foreignAnswer{status: status, what: what} }
	if len(body) == 0 {
		return foreign("an empty body")
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		return foreign("no JSON object")
	}
	is := func(name string, v any) bool { return json.Unmarshal(fields[name], v) == nil }
	if strings.HasSuffix(path, "/v1/sys/health") && status < 300 { // there may be a prefix in VAULT_ADDR
		var initialized, sealed *bool
		if !is("initialized", &initialized) || !is("sealed", &sealed) || initialized == nil || sealed == nil {
			return foreign("without Vault's fields initialized and sealed")
		}
		return nil
	}
	var id string
	var wrap struct{ Token string }
	var data map[string]json.RawMessage
	var errs, warnings []string
	framed := is("request_id", &id) && id != "" && (fields["wrap_info"] == nil || is("wrap_info", &wrap))
	switch {
	case status == http.StatusOK && is("wrap_info", &wrap) && wrap.Token != "":
		return errWrapped
	case status == http.StatusOK && framed:
		return nil
	case status == http.StatusOK:
		return foreign("without Vault's request_id")
	case status < 300:
		return foreign("which Vault does not answer to this call")
	case status == http.StatusNotFound && framed && is("data", &data) && data["metadata"] != nil:
		return nil // of a deleted version
	case status == http.StatusNotFound && framed && is("warnings", &warnings) && len(warnings) > 0:
		return nil // the path is not one of this engine
	case !is("errors", &errs) || errs == nil:
		return foreign("without Vault's list of errors")
	}
	for name := range fields {
		if name != "errors" && name != "data" && name != "warnings" { // such as "message" or "status"
			return foreign("without Vault's list of errors")
		}
	}
	return nil
}

// lookEvery is the least time between two looks at the TLS files, unless a request has failed since.
const lookEvery = time.Second

// reloading is a transport that is replaced whenever the content of its TLS files has changed. Where that fails, as
// it may amid a rotation, the one of before stays.
type reloading struct {
	files  []string
	reload func() (*vaultapi.Config, error)
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	current http.RoundTripper
	seen    digest // of the files before current was made, or could not be
	looked  time.Time
}

// RoundTrip implements http.RoundTripper. Requests under way keep the transport that they have.
func (t *reloading) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.look().RoundTrip(r)
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.looked = time.Time{}
	}
	return resp, err
}

// look returns the transport for the files as they are.
func (t *reloading) look() http.RoundTripper {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if now.Sub(t.looked) < lookEvery {
		return t.current
	}
	t.looked = now
	sum := digestOf(t.files)
	if sum == t.seen {
		return t.current
	}
	t.seen = sum
	next, err := t.reload()
	if err != nil {
		t.log.Warn("vault: the TLS files have changed and can't be used; what they held before stays in use", "error", err)
		return t.current
	}
	t.log.Info("vault: the TLS files have changed and are in use")
	if old, ok := t.current.(*http.Transport); ok {
		old.CloseIdleConnections()
	}
	t.current = next.HttpClient.Transport
	return t.current
}

// maxTLSFile is how much of a file is looked at for changes, in bytes.
const maxTLSFile = 4 << 20

// digest is equal for equal contents of files.
type digest [sha256.Size]byte

// digestOf returns the digest of files and of the files in directories. It looks through links, which is how
// Kubernetes replaces files. What can't be read counts with the reason.
func digestOf(paths []string) (d digest) {
	h := sha256.New()
	add := func(path string, entry fs.DirEntry, err error) error {
		var content []byte
		if err == nil && !entry.IsDir() {
			content, err = readUpTo(path, maxTLSFile)
		}
		fmt.Fprintf(h, "%q: %d bytes, %v\n%s", path, len(content), err, content)
		return nil
	}
	for _, path := range paths {
		real, err := filepath.EvalSymlinks(path) // WalkDir follows no link to a directory
		if err == nil {
			err = filepath.WalkDir(real, add)
		}
		fmt.Fprintf(h, "%q: %v\n", path, err)
	}
	h.Sum(d[:0])
	return d
}
