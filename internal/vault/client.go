// Package vault implements provision.Secrets on HashiCorp Vault's KV engine.
//
// A tenant's secrets live at <kv mount>/<tenant prefix>/<tenant>/; the tenant comes from the caller, the rest of the
// path from the request, and no request can leave its tenant's place (placeOf). Client.Run gets a token by the
// configured login (login.go) and keeps it alive (renewal.go). Reads are retried a few times within seconds (kv.go)
// and cached for a short while (cache.go); waiting longer than that is the hub's business.
//
// No error and no log line of this package holds a secret: messages are made from paths, field names, types and
// Vault's own decoded messages, with the token and login credentials struck out; the body of an answer that is not
// Vault's is never quoted.
package vault

import (
	"context"
	"errors"
	"fmt"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Client reads tenants' secrets from Vault. It implements provision.Secrets; its methods are safe for
// concurrent use. It gives nothing before Run is running.
type Client struct {
	session *session
	kv      *engine
	cache   *cache
	prefix  string
	nobody  *vaultapi.Client // without token and namespace, for Health
}

var _ provision.Secrets = (*Client)(nil)

// New returns a Client. It fails only for a wrong Config, naming everything that is wrong with it at once, or metrics
// that are registered already; it sends nothing, so a Vault that is down is no obstacle.
func New(conf Config) (*Client, error) {
	conf = conf.withDefaults()
	api, err := conf.buildAPI()
	if err := errors.Join(conf.validate(), err); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	s := &session{
		api: api, login: chooseLogin(conf, api), static: conf.Auth == AuthToken || conf.Auth == AuthNone, timeout: api.ClientTimeout(),
		log: conf.Log, onRetry: conf.OnRetry, known: conf.known,
		concluded: make(chan struct{}), wanted: make(chan struct{}, 1), err: unavailable("", "not logged in yet"),
	}
	if conf.Auth == AuthToken {
		s.tokenFile = conf.TokenFile
	}
	if s.metrics, err = newMetrics(conf.Registerer, s.ttl); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	nobody := api.WithNamespace("") // a namespace has no health of its own. Made here because it copies the token unlocked
	nobody.ClearToken()
	kv := &engine{session: s, mount: conf.KVMount}
	return &Client{session: s, kv: kv, cache: newCache(kv.read, conf.CacheTTL), prefix: conf.TenantPrefix, nobody: nobody}, nil
}

// Run logs in, keeps the token alive and gets the next one in time, until ctx ends; then it cuts the reads under way
// off and returns nil, and the Client gives nothing more. Vault may be down for as long as it likes. Call it once.
func (c *Client) Run(ctx context.Context) error {
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
		out, err = s.credentials()
		return err
	})
	if err != nil {
		return provision.Credentials{}, err
	}
	out.Cached = cached
	return out, nil
}

// Resolve implements provision.Secrets. A reference that ParseSecretRef would refuse, or that reads as another one, is
// refused here too, as SecretMissing: a ref made in any other way has no more rights.
func (c *Client) Resolve(ctx context.Context, tenant string, ref provision.SecretRef, fresh bool) (provision.Secret, error) {
	parsed, err := provision.ParseSecretRef(ref.String())
	if err == nil && parsed != ref {
		err = fmt.Errorf("%w: it reads as another one", provision.ErrBadRef)
	}
	if err != nil {
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

// secret reads the secret at rel in the tenant's place and passes it to use.
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

// operation is a label value: what a request was for.
type operation string

const (
	opLogin operation = "login" // with AuthToken: looking the token up
	opRenew operation = "renew"
	opRead  operation = "read" // of a secret, or of the mount's KV version
)

const resultOK = "ok" // the other results are provision's SecretProblems

type metrics struct{ requests *prometheus.CounterVec }

// newMetrics registers the metrics; ttl returns the seconds that the token has left.
func newMetrics(reg prometheus.Registerer, ttl func() float64) (metrics, error) {
	m := metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flow_worker_vault_requests_total",
		Help: "HTTP requests to Vault, each try counted, by what for and how they ended (denied: Vault denies the worker).",
	}, []string{"operation", "result"})}
	for _, op := range []operation{opLogin, opRenew, opRead} {
		m.requests.WithLabelValues(string(op), resultOK)
		for _, p := range []provision.SecretProblem{provision.SecretMissing, provision.SecretDenied, provision.SecretUnavailable} {
			m.requests.WithLabelValues(string(op), string(p))
		}
	}
	if reg == nil {
		return m, nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flow_worker_vault_token_ttl_seconds",
		Help: "Seconds until the worker's Vault token ends; 0 without a token, +Inf for one that never ends, NaN where nobody says.",
	}, ttl)
	return m, errors.Join(reg.Register(m.requests), reg.Register(gauge))
}

func (m metrics) count(op operation, err *failure) {
	result := resultOK
	if err != nil {
		result = string(err.Problem)
	}
	m.requests.WithLabelValues(string(op), result).Inc()
}
