package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// stored is one version of a secret as it was read.
type stored struct {
	at      string // its path, as `vault kv get` wants it
	version int    // 0 in a version 1 engine
	fields  map[string]any
}

// Format implements fmt.Formatter, so that no verb can print the fields.
func (s *stored) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "secret at "+s.at) }

// engine reads secrets from one KV engine.
type engine struct {
	session *session
	mount   string
	version atomic.Int32 // 1 or 2 once that is known for sure
}

// read returns a version of the secret at p, the newest for 0.
//
// Whether the engine has version 1 or 2 is asked once, and again where a version 1 engine seems to
// have been upgraded. A token that may not ask is no obstacle: the secret is then read as version 2,
// and as version 1 if there is nothing (a version 1 engine refuses the other's path or has nothing
// there), and the first secret found that way settles it.
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

// detect returns the engine's version, 0 where Vault doesn't tell.
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
	if at, _ := s.Data["path"].(string); at != e.mount+"/" || kind != "kv" && kind != "generic" {
		return 0, unavailable("", "VAULT_KV_MOUNT: %s is no KV engine's mount; Vault has an engine of type %.40q at %.200q there", e.mount, kind, at)
	}
	options, _ := s.Data["options"].(map[string]any)
	if v, _ := options["version"].(string); v == "2" {
		return 2, nil
	}
	return 1, nil
}

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
	case !a.found && a.secret != nil && len(a.secret.Warnings) > 0:
		return nil, true, nothingAt(at)
	case !a.found || a.secret == nil || a.secret.Data == nil:
		return nil, false, nothingAt(at)
	}
	return &stored{at: at, fields: a.secret.Data}, false, nil
}

func nothingAt(at string) *failure {
	return missing("there is no secret at %s; write it with: vault kv put %s <field>=<value>", at, at)
}

func (e *engine) read2(ctx context.Context, p place, version int) (*stored, *failure) {
	at := e.mount + "/" + p.path
	var query map[string][]string
	if version != 0 {
		query = map[string][]string{"version": {strconv.Itoa(version)}}
	}
	a, err := e.session.get(ctx, e.mount+"/data/"+p.path, query, true)
	if err != nil {
		return nil, err
	}
	if a.secret == nil || a.secret.Data == nil {
		if version != 0 {
			return nil, missing("there is no version %d of %s", version, at)
		}
		return nil, nothingAt(at)
	}
	return versioned(at, a)
}

// versioned reads version 2's form of a secret.
func versioned(at string, a answer) (*stored, *failure) {
	metadata, _ := a.secret.Data["metadata"].(map[string]any)
	number, _ := metadata["version"].(json.Number)
	version, err := strconv.Atoi(number.String())
	if err != nil && !a.found {
		return nil, unavailable(provision.CauseStatus, "%s: HTTP 404 with data that is not KV version 2's, so the answer is not Vault's own", at)
	}
	if err != nil {
		return nil, missing("%s: the secret is not in the form of KV version 2", at)
	}
	fields, ok := a.secret.Data["data"].(map[string]any)
	switch {
	case metadata["destroyed"] == true:
		return nil, missing("version %d of %s has been destroyed", version, at)
	case !a.found || a.secret.Data["data"] == nil:
		return nil, missing("version %d of %s has been deleted; write a new one, or: vault kv undelete -versions=%d %s", version, at, version, at)
	case !ok:
		return nil, missing("%s: the secret holds no fields", at)
	}
	return &stored{at: at, version: version, fields: fields}, nil
}
