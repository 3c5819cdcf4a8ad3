package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// lease is how long a token lasts.
type lease struct {
	ttl       time.Duration // 0 means for ever
	asked     time.Time     // when ttl began at the earliest: before Vault was asked
	renewable bool
}

// login gets a token: it returns the token and its lease. Every call reads its files anew.
type login func(ctx context.Context) (string, lease, *failure)

// chooseLogin returns the configured way to log in.
func chooseLogin(conf Config, api *vaultapi.Client) login {
	if conf.Auth == AuthToken {
		return lookupSelf(conf, api, api.Token())
	}
	path := "auth/" + conf.AuthMount + "/login"
	return func(ctx context.Context) (string, lease, *failure) {
		body, secret, err := credentials(conf)
		if err != nil {
			return "", lease{}, newFailure(provision.SecretUnavailable, "", err)
		}
		conf.known.add(secret)
		// A login must not carry the old token, and a shallow copy is how the client does without.
		anonymous, after := heeding(api, conf.Clock)
		anonymous.ClearToken()
		answer, err := anonymous.Logical().WriteWithContext(ctx, path, body)
		if err != nil {
			f := classify(opLogin, "log in at "+path, err, conf.known.with(secret)...)
			f.RetryAfter = *after
			conf.refuse(f, err, secret)
			return "", lease{}, f
		}
		return grant("log in at "+path, answer)
	}
}

// heeding returns a copy of api for one call, and where that call's Retry-After will be: errors of
// Vault's client have no headers.
func heeding(api *vaultapi.Client, clock provision.Clock) (*vaultapi.Client, *time.Duration) {
	var after time.Duration
	once := api.WithResponseCallbacks(func(r *vaultapi.Response) { after = retryAfter(r.Header, clock.Now()) })
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

// readSecretFile returns the content of a file without the blanks around it.
func readSecretFile(setting, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	text := strings.TrimSpace(string(content))
	if text == "" || len(content) > maxSecretFile {
		return "", fmt.Errorf("%s: %s holds %d bytes; want a credential of 1 to %d", setting, path, len(content), maxSecretFile)
	}
	return text, nil
}

// grant reads the auth part of an answer to a login or a renewal.
func grant(doing string, answer *vaultapi.Secret) (string, lease, *failure) {
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return "", lease{}, newFailure(provision.SecretDenied, "", fmt.Errorf("%s: Vault answered without a token; does the login ask for a second factor?", doing))
	}
	auth := answer.Auth
	if strings.ContainsFunc(auth.ClientToken, notPrintable) {
		return "", lease{}, unavailable(provision.CauseStatus, "%s: the token in the answer is malformed", doing)
	}
	ttl := time.Duration(auth.LeaseDuration) * time.Second
	if ttl < 0 {
		return "", lease{}, unavailable(provision.CauseStatus, "%s: the token in the answer is over already", doing)
	}
	return auth.ClientToken, lease{ttl: ttl, renewable: auth.Renewable}, nil
}

// lookupSelf is the login of those who have a token: it asks whether the token lives, and how long.
func lookupSelf(conf Config, api *vaultapi.Client, token string) login {
	const doing = "look up VAULT_TOKEN"
	return func(ctx context.Context) (string, lease, *failure) {
		own, after := heeding(api, conf.Clock)
		own.SetToken(token)
		answer, err := own.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil {
			f := classify(opLogin, doing, err, conf.known.with(token)...)
			f.RetryAfter = *after
			return "", lease{}, f
		}
		l, err := described(answer)
		if err != nil {
			return "", lease{}, unavailable(provision.CauseStatus, "%s: %w", doing, err)
		}
		return token, l, nil
	}
}

// described reads the answer to a look-up.
func described(answer *vaultapi.Secret) (lease, error) {
	if answer == nil {
		return lease{}, errors.New("the answer is empty")
	}
	seconds, ok := answer.Data["ttl"].(json.Number)
	if !ok {
		return lease{}, errors.New("the answer has no ttl")
	}
	n, err := seconds.Int64()
	if err != nil || n < 0 || n > int64(1<<62/time.Second) {
		return lease{}, errors.New("the answer's ttl is no number of seconds")
	}
	if n == 0 && answer.Data["expire_time"] != nil {
		return lease{}, errors.New("the token ends within a second")
	}
	renewable, _ := answer.Data["renewable"].(bool) // root tokens have none
	return lease{ttl: time.Duration(n) * time.Second, renewable: renewable}, nil
}
