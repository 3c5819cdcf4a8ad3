package vault

import (
	"context"
	"errors"
	"fmt"

	vaultapi "github.com/hashicorp/vault/api"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Client reads tenants' secrets from Vault. It implements provision.Secrets; its methods are safe for
// concurrent use. It gives nothing before Run is running.
type Client struct {
	session *session
	kv      *engine
	cache   *cache
	prefix  string
	nobody  *vaultapi.Client   // without token and namespace, for Health
	end     context.CancelFunc // of all requests
}

var _ provision.Secrets = (*Client)(nil)

// New returns a Client. It fails only for a wrong Config, telling everything that is wrong with it at
// once, or metrics that are registered already; it sends nothing, so a Vault that is down is no
// obstacle.
func New(conf Config) (*Client, error) {
	conf = conf.withDefaults()
	life, end := context.WithCancel(context.Background())
	api, apiErr := conf.buildAPI(life)
	if err := errors.Join(conf.validate(), apiErr); err != nil {
		end()
		return nil, fmt.Errorf("vault: %w", err)
	}
	s := &session{
		api: api, login: chooseLogin(conf, api), static: conf.Auth == AuthToken || conf.Auth == AuthNone, timeout: api.ClientTimeout(),
		clock: conf.Clock, log: conf.Log, onRetry: conf.OnRetry, known: conf.known,
	}
	if conf.Auth == AuthToken {
		s.tokenFile = conf.TokenFile
	}
	s.init()
	var err error
	if s.metrics, err = newMetrics(conf.Registerer, s.ttl); err != nil {
		end()
		return nil, fmt.Errorf("vault: %w", err)
	}
	nobody := api.WithNamespace("") // a namespace has no health of its own. Not to be made later: it copies the token unlocked
	nobody.ClearToken()
	kv := &engine{session: s, mount: conf.KVMount}
	return &Client{
		session: s,
		kv:      kv,
		cache:   newCache(kv.read, conf.CacheTTL),
		prefix:  conf.TenantPrefix,
		nobody:  nobody,
		end:     end,
	}, nil
}

// Run logs in, keeps the token alive and logs in anew in time, until ctx ends; then it cuts the reads
// under way off and returns nil, and the Client gives nothing more. Vault may be down for as long as it
// likes. Call it once.
func (c *Client) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, c.end)()
	defer c.end()
	c.session.run(ctx)
	c.cache.close()
	return nil
}

// Ready returns nil if the worker has a token that is valid as far as is known without asking, and
// the latest attempt to get or renew one went well. Else it returns a *provision.SecretError. It sends
// nothing; see Health.
func (c *Client) Ready() error { return c.session.ready() }

// Health asks Vault whether it is unsealed and serves requests. It needs no token. The error is a
// *provision.SecretError.
func (c *Client) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.session.timeout)
	defer cancel()
	h, err := c.nobody.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return classify(opRead, "ask for Vault's health", err, c.session.known.with(c.session.api.Token())...).public()
	case !h.Initialized:
		return unavailable(provision.CauseStatus, "Vault is not initialized; see: vault operator init").public()
	case h.Sealed:
		return unavailable(provision.CauseStatus, "Vault is sealed; see: vault operator unseal").public()
	case h.ReplicationDRMode == "secondary":
		return unavailable(provision.CauseStatus, "this Vault is a disaster recovery secondary, which serves no reads; check VAULT_ADDR").public()
	}
	return nil
}

// Credentials implements provision.Secrets.
func (c *Client) Credentials(ctx context.Context, tenant string, fresh bool) (provision.Credentials, error) {
	var out provision.Credentials
	cached, err := c.secret(ctx, tenant, provision.AdobeSecret, 0, fresh, func(s *stored) (err *failure) {
		out, err = credentialsIn(s)
		return err
	})
	if err != nil {
		return provision.Credentials{}, err
	}
	out.Cached = cached
	return out, nil
}

// Resolve implements provision.Secrets. A reference that ParseSecretRef would refuse is refused here
// too, as SecretMissing with that error in it.
func (c *Client) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	if err := checkRef(ref); err != nil {
		return provision.Secret{}, missing("%w", err).public()
	}
	var out provision.Secret
	cached, err := c.secret(ctx, tenant, ref.Path, ref.Version, fresh, func(s *stored) (err *failure) {
		out, err = secretIn(s, ref.Field)
		return err
	})
	if err != nil {
		return provision.Secret{}, err
	}
	out.Cached = cached
	return out, nil
}

// secret finds the secret at rel in the tenant's place and lets use have it.
func (c *Client) secret(ctx context.Context, tenant, rel string, version int, fresh bool, use func(*stored) *failure) (cached bool, err error) {
	p, err := placeOf(c.prefix, tenant, rel)
	if err != nil {
		return false, missing("%w", err).public()
	}
	if err := ctx.Err(); err != nil {
		return false, unavailable(provision.CauseTimeout, "read %s: %w", p.path, err).public()
	}
	cached, f := c.cache.get(ctx, slot{place: p, version: version}, fresh, use)
	if f != nil && cached {
		remembered := *f.SecretError // the cache's own is shared
		remembered.Cached = true
		return true, &remembered
	}
	return cached, f.public()
}
