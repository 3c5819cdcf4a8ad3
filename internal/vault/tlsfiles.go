package vault

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// tlsFiles returns the files and directories that the TLS settings name, by Config or environment.
func (c Config) tlsFiles() []string {
	var given vaultapi.TLSConfig
	if c.TLS != nil {
		given = *c.TLS
	}
	var files []string
	for _, path := range []string{
		cmp.Or(given.CACert, os.Getenv(vaultapi.EnvVaultCACert)), cmp.Or(given.CAPath, os.Getenv(vaultapi.EnvVaultCAPath)),
		cmp.Or(given.ClientCert, os.Getenv(vaultapi.EnvVaultClientCert)), cmp.Or(given.ClientKey, os.Getenv(vaultapi.EnvVaultClientKey)),
	} {
		if path != "" {
			files = append(files, path)
		}
	}
	return files
}

// baseAPI returns the settings of Vault's own client, its transport included, as Config and
// environment have them. It reads the TLS files.
func (c Config) baseAPI() (*vaultapi.Config, error) {
	conf := vaultapi.DefaultConfig()
	if conf.Error != nil {
		return nil, fmt.Errorf("the VAULT_* variables: %w", conf.Error)
	}
	if c.TLS != nil {
		if err := conf.ConfigureTLS(c.TLS); err != nil {
			return nil, fmt.Errorf("TLS for Vault: %w", err)
		}
	}
	return conf, nil
}

// lookEvery is the least time between two looks at the TLS files, unless a request has failed since.
const lookEvery = time.Second

// rotating is a transport that is made anew whenever the content of its TLS files has changed. Where
// that fails, as it may amid a rotation, the old one goes on.
type rotating struct {
	files []string
	renew func() (http.RoundTripper, error)
	clock provision.Clock
	log   *slog.Logger

	mu     sync.Mutex
	now    http.RoundTripper
	seen   digest // of the files before now was made, or could not be
	looked time.Time
}

// rotate returns a transport that begins with first, made when the files were as seen. Without files
// that is first itself.
func (c Config) rotate(first http.RoundTripper, seen digest) http.RoundTripper {
	files := c.tlsFiles()
	if len(files) == 0 {
		return first
	}
	return &rotating{files: files, clock: c.Clock, log: c.Log, now: first, seen: seen, renew: func() (http.RoundTripper, error) {
		base, err := c.baseAPI()
		if err != nil {
			return nil, err
		}
		return base.HttpClient.Transport, nil
	}}
}

// RoundTrip implements http.RoundTripper.
func (r *rotating) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.current().RoundTrip(req)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.looked = time.Time{}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the transport of now.
func (r *rotating) CloseIdleConnections() {
	r.mu.Lock()
	defer r.mu.Unlock()
	closeIdle(r.now)
}

// current returns the transport for the files as they are. Requests under way keep the one they have.
func (r *rotating) current() http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.clock.Now(); now.Sub(r.looked) >= lookEvery {
		r.looked = now
		r.look()
	}
	return r.now
}

// look makes the transport anew if the files have changed. The caller holds mu.
func (r *rotating) look() {
	sum := digestOf(r.files)
	if sum == r.seen {
		return
	}
	r.seen = sum
	next, err := r.renew()
	if err != nil {
		r.log.Warn("vault: the TLS files have changed and can't be used; what they held before stays in use", "error", err)
		return
	}
	r.log.Info("vault: the TLS files have changed and are in use")
	closeIdle(r.now)
	r.now = next
}

func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// maxTLSFile is how much of a file is looked at for changes, in bytes.
const maxTLSFile = 4 << 20

// digest tells one content of files from another.
type digest [sha256.Size]byte

// digestOf returns the digest of files and of the files in directories. What can't be read counts with
// the reason.
func digestOf(paths []string) (d digest) {
	h := sha256.New()
	for _, path := range paths {
		real, err := filepath.EvalSymlinks(path) // for a link to a directory: WalkDir follows none
		if err == nil {
			err = filepath.WalkDir(real, func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return addFile(h, path)
			})
		}
		if err != nil {
			fmt.Fprintf(h, "%q: %v\n", path, err)
		}
	}
	h.Sum(d[:0])
	return d
}

// addFile adds a file to a digest. It looks through links, which is how Kubernetes rotates files; a
// directory has nothing to add.
func addFile(h hash.Hash, path string) error {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("no regular file") // such as a pipe, which has no end
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(h, "%q: %d\n", path, info.Size())
	_, err = io.Copy(h, io.LimitReader(f, maxTLSFile))
	return err
}
