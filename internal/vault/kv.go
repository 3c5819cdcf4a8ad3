package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v4"
	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// stored is one version of a secret as it was read.
type stored struct {
	at      string // its path, as `vault kv get` wants it
	version int    // 0 in a version 1 engine
	fields  map[string]any

	once     sync.Once // guards what follows: a cached secret is read by many requests
	adobe    provision.Credentials
	notAdobe *failure
}

// Format implements fmt.Formatter, so that no verb can print the fields.
func (s *stored) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "secret at "+s.at) }

// engine reads secrets from one KV engine.
type engine struct {
	session *session
	mount   string
	version atomic.Int32 // 1 or 2 once that is known for sure
}

// read returns a version of the secret at p, the newest for 0. Whether the engine has version 1 or 2 is asked once,
// and again where a version 1 engine seems to have been upgraded.
func (e *engine) read(ctx context.Context, p place, version int) (*stored, *failure) {
	kv, err := e.detect(ctx)
	if err != nil {
		return nil, err
	}
	if kv != 1 {
		return e.readAs(ctx, kv, p, version)
	}
	got, upgraded, err := e.read1(ctx, p, version, true)
	if !upgraded {
		return got, err
	}
	e.version.Store(0)
	again, bad := e.detect(ctx)
	switch {
	case bad != nil:
		return nil, bad
	case again == 1:
		return got, err
	}
	newer, bad := e.readAs(ctx, again, p, version)
	if bad == nil || again == 2 || bad.Problem == provision.SecretUnavailable {
		return newer, bad
	}
	return got, err
}

func (e *engine) readAs(ctx context.Context, kv int32, p place, version int) (*stored, *failure) {
	if kv == 2 {
		return e.read2(ctx, p, version)
	}
	return e.guess(ctx, p, version)
}

// detect returns the engine's version, 0 where Vault doesn't say.
func (e *engine) detect(ctx context.Context) (int32, *failure) {
	if v := e.version.Load(); v != 0 {
		return v, nil
	}
	a, err := e.session.get(ctx, "sys/internal/ui/mounts/"+e.mount, nil, false)
	switch {
	case err != nil && (err.Problem == provision.SecretDenied || err.foreign) && !err.login, err == nil && !a.found:
		return 0, nil // a proxy may let reads through and nothing else
	case err != nil:
		return 0, err
	}
	v, err := e.mounted(a.secret)
	if err == nil {
		e.version.Store(v)
	}
	return v, err
}

// mounted reads the answer about the mount.
func (e *engine) mounted(s *vaultapi.Secret) (int32, *failure) {
	if s == nil {
		return 0, nil
	}
	kind, _ := s.Data["type"].(string)
	at, _ := s.Data["path"].(string)
	if kind == "" && at == "" {
		return 0, nil // not Vault's answer to this; the reads show who answers there
	}
	if at != e.mount+"/" || kind != "kv" && kind != "generic" {
		return 0, unavailable("", "VAULT_KV_MOUNT: %s is no KV engine's mount; Vault has an engine of type %.40q at %.200q there", e.mount, kind, at)
	}
	options, _ := s.Data["options"].(map[string]any)
	if v, _ := options["version"].(string); v == "2" {
		return 2, nil
	}
	return 1, nil
}

// guess reads the secret of an engine of unknown version, as version 2 and, if there is nothing, as version 1: such an
// engine refuses the other's path or has nothing there. The first secret that is found settles the version.
func (e *engine) guess(ctx context.Context, p place, version int) (*stored, *failure) {
	got, err := e.read2(ctx, p, version)
	switch {
	case err == nil:
		e.version.Store(2)
		return got, nil
	case err.Problem == provision.SecretUnavailable || err.login || version != 0:
		return nil, err
	}
	old, _, bad := e.read1(ctx, p, 0, false)
	switch {
	case bad == nil:
		e.version.Store(1)
		return old, nil
	case bad.Problem == provision.SecretUnavailable:
		return nil, bad // who knows what is there
	}
	return nil, err
}

// read1 reads from a version 1 engine. It also reports whether the engine may have become one of
// version 2.
func (e *engine) read1(ctx context.Context, p place, version int, relogin bool) (*stored, bool, *failure) {
	at := e.mount + "/" + p.path
	if version != 0 {
		return nil, true, missing("%s: a KV engine of version 1 keeps no versions; leave ?version=%d out", at, version)
	}
	a, err := e.session.get(ctx, at, nil, relogin)
	switch {
	case err != nil:
		return nil, false, err
	case a.nothing():
		return nil, false, nothingAt(at)
	case !a.found && len(a.secret.Warnings) > 0:
		return nil, true, nothingAt(at)
	case !a.found:
		return nil, true, a.foreign(at, "with data, which a KV engine of version 1 does not add")
	case a.secret == nil || len(a.secret.Data) == 0:
		return nil, false, a.foreign(at, "without a secret's fields")
	}
	return &stored{at: at, fields: a.secret.Data}, false, nil
}

func nothingAt(at string) *failure {
	return missing("there is no secret at %s; write it with: vault kv put %s <field>=<value>", at, at)
}

// read2 reads version 2's form of a secret: its fields and a numbered version. A version that is gone comes without
// fields, as a 404 whose metadata say so. Another version than the one asked for is no answer.
func (e *engine) read2(ctx context.Context, p place, version int) (*stored, *failure) {
	const form = "without a secret in the form of KV version 2 (data.data, and data.metadata with a version)"
	at := e.mount + "/" + p.path
	var query map[string][]string
	if version != 0 {
		query = map[string][]string{"version": {strconv.Itoa(version)}}
	}
	a, f := e.session.get(ctx, e.mount+"/data/"+p.path, query, true)
	switch {
	case f != nil:
		return nil, f
	case a.nothing() && version != 0:
		return nil, missing("there is no version %d of %s", version, at)
	case a.nothing():
		return nil, nothingAt(at)
	case a.secret == nil:
		return nil, a.foreign(at, form)
	}
	metadata, _ := a.secret.Data["metadata"].(map[string]any)
	number, _ := metadata["version"].(json.Number)
	got, err := strconv.Atoi(number.String())
	data, there := a.secret.Data["data"]
	fields, ok := data.(map[string]any)
	deleted, _ := metadata["deletion_time"].(string)
	switch {
	case err != nil || got < 1 || !there || data != nil && !ok:
		return nil, a.foreign(at, form)
	case version != 0 && version != got:
		return nil, a.foreign(at, fmt.Sprintf("with version %d where version %d was asked for", got, version))
	case metadata["destroyed"] == true:
		return nil, missing("version %d of %s has been destroyed", got, at)
	case deleted != "" && fields == nil:
		return nil, missing("version %d of %s has been deleted; write a new one, or: vault kv undelete -versions=%d %s", got, at, got, at)
	case !a.found:
		return nil, a.foreign(at, "with a version that is neither deleted nor destroyed")
	case fields == nil:
		return nil, missing("%s: the secret holds no fields", at)
	}
	return &stored{at: at, version: got, fields: fields}, nil
}

// nothing reports whether a is Vault's word that there is nothing: a 404 with an empty list of errors, and without
// the frame of an answer that says more.
func (a answer) nothing() bool {
	return !a.found && (a.secret == nil || a.secret.RequestID == "" && a.secret.Data == nil)
}

// foreign is the failure of a read that something else than Vault's KV engine answered, for all that its frame is
// like Vault's. It decides nothing about the secret.
func (a answer) foreign(at, what string) *failure {
	status := http.StatusOK
	if !a.found {
		status = http.StatusNotFound
	}
	f := unavailable(provision.CauseStatus, "read %s: %w", at, &foreignAnswer{status: status, what: what})
	f.foreign = true
	return f
}

// The quick retries. Whatever lasts longer is the hub's to wait for.
const (
	tries        = 3
	firstDelay   = 100 * time.Millisecond
	longestDelay = time.Second
	longestAfter = 2 * time.Second // a Retry-After beyond this ends the quick retries, for the hub to wait
)

// answer is what Vault said to a GET: 200, or a 404 of its own.
type answer struct {
	found  bool             // the status is 200
	secret *vaultapi.Secret // nil where the body had nothing but errors
}

// get reads path, with a few quick retries. With relogin a refusal leads to one new login.
func (s *session) get(ctx context.Context, path string, query map[string][]string, relogin bool) (answer, *failure) {
	delays := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstDelay), backoff.WithMultiplier(3),
		backoff.WithMaxInterval(longestDelay), backoff.WithMaxElapsedTime(0))
	for try := 1; ; try++ {
		a, err := s.getAs(ctx, path, query, relogin)
		if err == nil || !err.quick || try == tries || err.RetryAfter > longestAfter || ctx.Err() != nil {
			return a, err
		}
		s.retried(err)
		if sleep(ctx, max(delays.NextBackOff(), err.RetryAfter)) != nil {
			return answer{}, err
		}
	}
}

// getAs reads path with the token of now, and if that is refused and relogin says so, once more with
// another one.
func (s *session) getAs(ctx context.Context, path string, query map[string][]string, relogin bool) (answer, *failure) {
	gen, err := s.token(ctx)
	if err != nil {
		return answer{}, err
	}
	a, refused := s.getOnce(ctx, gen, path, query)
	if refused == nil || refused.Problem != provision.SecretDenied || !relogin {
		return a, refused
	}
	newer, err := s.another(ctx, gen, refused.invalid)
	if err != nil {
		return answer{}, err
	}
	if newer == gen {
		return answer{}, refused
	}
	return s.getOnce(ctx, newer, path, query)
}

// getOnce sends one GET with the token of number gen, and counts it.
func (s *session) getOnce(ctx context.Context, gen uint64, path string, query map[string][]string) (a answer, f *failure) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	defer func() {
		counted := f
		if f == nil && !a.found {
			counted = missing("nothing at %s", path)
		}
		s.metrics.count(opRead, counted)
		s.hasRead(gen, f)
	}()
	resp, err := s.api.Logical().ReadRawWithDataWithContext(ctx, path, query)
	// A 404 without a reason says that a path holds nothing. One with a reason, such as a missing engine or
	// namespace, says nothing about the secret.
	var refusal *vaultapi.ResponseError
	nothing := errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound && !refusal.RawError && len(refusal.Errors) == 0
	if resp == nil || err != nil && !nothing {
		f := classify(opRead, "read "+path, err, s.known.with(s.api.Token())...)
		if resp != nil {
			f.RetryAfter = retryAfter(resp.Header, time.Now())
		}
		return answer{}, f
	}
	secret, err := vaultapi.ParseSecret(resp.Body)
	if err != nil {
		// The text of err may quote the body.
		f := unavailable(provision.CauseNetwork, "read %s: the answer is not in Vault's form", path)
		f.quick = true
		return answer{}, f
	}
	return answer{found: resp.StatusCode == http.StatusOK, secret: secret}, nil
}

// pathSegments are what nothing on the way to Vault can read as something else: no escapes, no empty segment.
var pathSegments = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

// plainPath reports whether p names one place below any other: Vault's client joins with path.Join, which resolves
// "." and "..".
func plainPath(p string) bool { return pathSegments.MatchString(p) && path.Clean("/"+p) == "/"+p }

func notPrintable(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

// place is where a secret lies below the KV mount. Only placeOf makes one.
type place struct{ path string }

// placeOf returns the place of rel in the tenant's own part of Vault, below prefix. It refuses whatever could name
// anything outside, also what provision.ParseSecretRef has refused before.
func placeOf(prefix, tenant, rel string) (place, error) {
	if !provision.ValidTenant(tenant) {
		return place{}, errors.New("not the name of a tenant")
	}
	if !plainPath(rel) {
		return place{}, fmt.Errorf("%w: not a path below the tenant's own", provision.ErrForbiddenRef)
	}
	return place{path: prefix + "/" + tenant + "/" + rel}, nil
}
