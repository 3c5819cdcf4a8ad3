package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
)

const (
	// refusedWait is how long a refused credential is not tried again.
	refusedWait = 5 * time.Minute
	// countedWait is the same where Vault counts. By default the fifth refused AppRole login locks the role
	// for 15 minutes, for all workers, and the count only ends when 15 minutes have passed without one. So
	// up to four workers that were refused within 15 minutes of each other never lock the role.
	countedWait = 30 * time.Minute
	// lookAgain is the time between two looks at a credential's file.
	lookAgain = time.Second
)

// refusal is what is known of a login that Vault has refused: another one with the same credential would
// be refused as well.
type refusal struct {
	setting, file string // of the credential; empty where the login reads none
	used          digest // the credential
	wait          time.Duration
}

// credentialFile returns the file that a login reads, and the setting that names it; nothing where it
// reads none.
func (c Config) credentialFile() (setting, path string) {
	switch {
	case c.Auth != AuthAppRole:
		return "VAULT_JWT_FILE", c.JWTFile
	case c.SecretIDFile != "":
		return "VAULT_SECRET_ID_FILE", c.SecretIDFile
	}
	return "", ""
}

// refuse makes f, which came of a login with secret that ended with err, a refusal if it is one.
func (c Config) refuse(f *failure, err error, secret string) {
	var answer *vaultapi.ResponseError
	if !errors.As(err, &answer) || !refuses(answer) {
		return
	}
	r := &refusal{used: sha256.Sum256([]byte(secret)), wait: refusedWait}
	r.setting, r.file = c.credentialFile()
	hint := ""
	switch {
	case c.Auth != AuthAppRole:
	case answer.StatusCode == http.StatusForbidden: // which is not counted
		hint = " (it may have locked the role after five refused logins; see: vault read sys/locked-users)"
	default:
		r.wait = countedWait
	}
	f.refusal = r
	f.Err = fmt.Errorf("login refused: %w%s; %s", f.Err, hint, r.advice())
}

// refuses reports whether an answer of Vault's own means that this credential is no good.
func refuses(answer *vaultapi.ResponseError) bool {
	return answer.StatusCode >= 400 && !decidesNothing(answer.StatusCode)
}

// advice says what the worker waits for.
func (r *refusal) advice() string {
	if r.file == "" {
		return fmt.Sprintf("waiting for %v", r.wait)
	}
	return fmt.Sprintf("waiting for %s to change, for %v at most", r.setting, r.wait)
}

// sitOut waits until there is another credential than the refused one, or the refusal's time is over. The
// old token is kept alive meanwhile. It reports true, with the old token's lease, if that could be
// renewed and there is nothing new to log in with.
func (s *session) sitOut(ctx context.Context, r *refusal) (lease, bool) {
	waiting, end := context.WithCancel(ctx)
	defer end()
	changed := make(chan bool, 1)
	go func() {
		defer end()
		changed <- s.awaitCredential(waiting, r)
	}()
	if old := s.old(); old.renewable {
		s.keep(waiting, old)
	}
	other := <-changed
	old := s.old()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = nil
	return old, !other && old.renewable && s.err == nil
}

// old returns the lease of the token of now. It is renewable only where that makes sense: while there is
// a token, and one that ends.
func (s *session) old() lease {
	left := s.left()
	s.mu.Lock()
	defer s.mu.Unlock()
	return lease{ttl: left, renewable: s.renewable && s.usable() && !s.expires.IsZero() && left > 0}
}

// awaitCredential reports true as soon as the file holds another credential than the refused one, and false
// when the refusal's time is over or ctx ends. A new one is taken at the second look, for at the first
// the file may be half written, and a try with that would count as well.
func (s *session) awaitCredential(ctx context.Context, r *refusal) bool {
	if r.file == "" {
		_ = s.clock.Sleep(ctx, r.wait) // nothing can change
		return false
	}
	seen := r.used
	for until := s.clock.Now().Add(r.wait); s.clock.Sleep(ctx, lookAgain) == nil && s.clock.Now().Before(until); {
		text, err := readSecretFile(r.setting, r.file)
		if err != nil {
			seen = r.used // it may be being replaced
			continue
		}
		now := digest(sha256.Sum256([]byte(text)))
		if now != r.used && now == seen {
			return true
		}
		seen = now
	}
	return false
}
