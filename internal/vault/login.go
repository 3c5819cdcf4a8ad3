package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// login gets a token: it returns the token and its lease. Every call reads its files again.
type login func(ctx context.Context) (string, lease, *failure)

// chooseLogin returns the configured way to log in.
func chooseLogin(conf Config, api *vaultapi.Client) login {
	switch {
	case conf.Auth == AuthNone:
		return func(context.Context) (string, lease, *failure) { return "", lease{unknown: true}, nil }
	case conf.Auth == AuthToken && conf.TokenFile == "":
		token := api.Token()
		return lookupSelf(conf, api, "VAULT_TOKEN", func() (string, error) { return token, nil })
	case conf.Auth == AuthToken:
		return lookupSelf(conf, api, "VAULT_TOKEN_FILE", func() (string, error) { return readTokenFile(conf.TokenFile) })
	}
	path := "auth/" + conf.AuthMount + "/login"
	doing := "log in at " + path
	return func(ctx context.Context) (string, lease, *failure) {
		body, secret, err := credentials(conf)
		if err != nil {
			return "", lease{}, newFailure(provision.SecretUnavailable, "", err)
		}
		conf.known.add(secret)
		// A login must not carry the old token, and a shallow copy is how the client does without.
		anonymous, after := heeding(api)
		anonymous.ClearToken()
		answer, err := anonymous.Logical().WriteWithContext(ctx, path, body)
		if err != nil {
			f := classify(opLogin, doing, err, conf.known.with(secret)...)
			f.RetryAfter = *after
			conf.refuse(f, err, secret)
			return "", lease{}, f
		}
		return grant(doing, answer)
	}
}

// heeding returns a copy of api for one call, and where that call's Retry-After will be: errors of
// Vault's client have no headers.
func heeding(api *vaultapi.Client) (*vaultapi.Client, *time.Duration) {
	var after time.Duration
	once := api.WithResponseCallbacks(func(r *vaultapi.Response) { after = retryAfter(r.Header, time.Now()) })
	return once, &after
}

// credentials returns the body of the login and the secret in it.
func credentials(conf Config) (body map[string]any, secret string, err error) {
	setting, file := conf.credentialFile()
	if file != "" {
		secret, err = readSecretFile(setting, file)
	}
	switch {
	case conf.Auth != AuthAppRole:
		body = map[string]any{"role": conf.Role, "jwt": secret}
	case file == "":
		body = map[string]any{"role_id": conf.RoleID}
	default:
		body = map[string]any{"role_id": conf.RoleID, "secret_id": secret}
	}
	return body, secret, err
}

// maxSecretFile is how large a credential's file may be, in bytes.
const maxSecretFile = 64 << 10

// readSecretFile returns the content of a file without a byte order mark and the blanks around it.
func readSecretFile(setting, path string) (string, error) {
	content, err := readUpTo(path, maxSecretFile+1)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	text := unquoted(string(content)) // a JSON string is the same credential
	switch {
	case text == "" || len(content) > maxSecretFile:
		return "", fmt.Errorf("%s: %s holds %d bytes; want a credential of 1 to %d", setting, path, len(content), maxSecretFile)
	case strings.ContainsRune(text, 0):
		return "", fmt.Errorf("%s: %s is not plain text (UTF-16?); write it again as UTF-8", setting, path)
	}
	return text, nil
}

// readUpTo returns the content of a file, at most limit bytes.
func readUpTo(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readTokenFile returns the token in a file that somebody else keeps fresh.
func readTokenFile(path string) (string, error) {
	const setting = "VAULT_TOKEN_FILE"
	token, err := readSecretFile(setting, path)
	switch {
	case err != nil:
		return "", err
	case strings.HasPrefix(token, "{"):
		return "", fmt.Errorf("%s: %s holds JSON, as of a wrapped or encrypted token; want the token alone, so take wrap_ttl and dh_type out of the agent's sink", setting, path)
	case strings.ContainsFunc(token, notPrintable):
		return "", fmt.Errorf("%s: %s holds blanks or control characters between others; want the token alone", setting, path)
	}
	return token, nil
}

// grant reads the auth part of an answer to a login or a renewal.
func grant(doing string, answer *vaultapi.Secret) (string, lease, *failure) {
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return "", lease{}, newFailure(provision.SecretDenied, "", fmt.Errorf("%s: Vault answered without a token; does the login ask for a second factor?", doing))
	}
	ttl := max(0, time.Duration(answer.Auth.LeaseDuration)*time.Second)
	return answer.Auth.ClientToken, lease{ttl: ttl, unknown: answer.Auth.LeaseDuration < 0, renewable: answer.Auth.Renewable}, nil
}

// lookupSelf is the login of those who are given a token: it asks how long the token lasts. The answer is a
// hint: where Vault gives none, or none that makes sense, the token is used all the same. Only Vault's word that
// it does not know the token is a failure, and one that a read takes back.
func lookupSelf(conf Config, api *vaultapi.Client, setting string, current func() (string, error)) login {
	doing := "look up " + setting
	return func(ctx context.Context) (string, lease, *failure) {
		token, err := current()
		if err != nil {
			return "", lease{}, newFailure(provision.SecretUnavailable, "", err)
		}
		conf.known.add(token)
		own, after := heeding(api)
		own.SetToken(token)
		answer, err := own.Auth().Token().LookupSelfWithContext(ctx)
		if err == nil {
			return token, described(answer), nil
		}
		f := classify(opLogin, doing, err, conf.known.with(token)...)
		f.RetryAfter = *after
		if !f.invalid && f.stays() {
			conf.Log.InfoContext(ctx, "vault: how long the token lasts is not told, so it is used until a read is refused", "setting", setting, "error", f)
			return token, lease{unknown: true, renewable: true}, nil
		}
		return token, lease{}, f
	}
}

// described reads the answer to a look-up. A token that never ends has no expire_time. Whether a token can be
// renewed is what renewing it shows.
func described(answer *vaultapi.Secret) lease {
	if answer == nil || answer.Data["ttl"] == nil {
		return lease{unknown: true, renewable: true}
	}
	ttl, err := answer.TokenTTL()
	end, ends := answer.Data["expire_time"]
	switch {
	case err == nil && ttl > 0:
		return lease{ttl: ttl, renewable: true}
	case err == nil && ends && end == nil:
		return lease{}
	}
	return lease{unknown: true, renewable: true}
}

const (
	// refusedWait is how long a refused credential is not tried again.
	refusedWait = 5 * time.Minute
	// countedWait is the same where Vault counts. By default the fifth refused AppRole login locks the role
	// for 15 minutes, for all workers, and the count only ends when 15 minutes have passed without one. So
	// up to four workers that were refused within 15 minutes of each other never lock the role.
	countedWait = 30 * time.Minute
)

// refusal is a login that Vault has refused: another one with the same credential would be refused as well.
type refusal struct {
	setting, file string // of the credential; empty where the login reads none
	used          string // the credential
	wait          time.Duration
}

func (r *refusal) isUsed(credential string) bool { return credential == r.used }

// credentialFile returns the file that a login reads, and the setting that names it; nothing where it reads none.
func (c Config) credentialFile() (setting, path string) {
	switch {
	case c.Auth != AuthAppRole:
		return "VAULT_JWT_FILE", c.JWTFile
	case c.SecretIDFile != "":
		return "VAULT_SECRET_ID_FILE", c.SecretIDFile
	}
	return "", ""
}

// refuse makes f, which came of a login with secret that ended with err, a refusal if Vault's own answer means that
// this credential is no good.
func (c Config) refuse(f *failure, err error, secret string) {
	var answer *vaultapi.ResponseError
	if !errors.As(err, &answer) || decidesNothing(answer.StatusCode) {
		return
	}
	r := &refusal{used: secret, wait: refusedWait}
	r.setting, r.file = c.credentialFile()
	hint := ""
	switch {
	case c.Auth != AuthAppRole:
	case answer.StatusCode == http.StatusForbidden: // which is not counted
		hint = " (it may have locked the role after five refused logins; see: vault read sys/locked-users)"
	default:
		r.wait = countedWait
	}
	waiting := fmt.Sprintf("waiting for %s to change, for %v at most", r.setting, r.wait)
	if r.file == "" {
		waiting = fmt.Sprintf("waiting for %v", r.wait)
	}
	f.refusal = r
	f.Err = fmt.Errorf("login refused: %w%s; %s", f.Err, hint, waiting)
}
