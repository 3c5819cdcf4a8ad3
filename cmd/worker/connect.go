package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/doctor"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// dialTimeout bounds how long a command waits for NATS; the worker itself waits longer.
const dialTimeout = 5 * time.Second

// connect connects a command, as opposed to the worker, to NATS.
func connect(s settings.Settings, command string, more ...nats.Option) (*nats.Conn, error) {
	cfg := app.NATSConfig(s)
	cfg.Name = "worker " + command
	opts, err := cfg.Options()
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	more = append(more, nats.Timeout(dialTimeout))
	nc, err := nats.Connect(s.NATSURL, append(more, opts...)...)
	if err != nil {
		return nil, unreachable(s, err)
	}
	return nc, nil
}

// connectJetStream connects a command that needs JetStream. The caller has to close its Conn.
func connectJetStream(s settings.Settings, command string, more ...nats.Option) (jetstream.JetStream, error) {
	nc, err := connect(s, command, more...)
	if err != nil {
		return nil, err
	}
	js, err := app.NATSConfig(s).JetStream(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return js, nil
}

// unreachable says which server could not be had, and what to do.
func unreachable(s settings.Settings, err error) error {
	at := settings.MaskURLs(s.NATSURL)
	remedy := natsRemedy(err)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("NATS at %s refuses this user: %w; %s", at, err, remedy)
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("NATS is not to be reached at %s; check NATS_URL (--nats-url) and that the server runs", at)
	case timedOut(err):
		return fmt.Errorf("NATS at %s does not answer: %w; %s", at, err, remedy)
	case remedy != "":
		return fmt.Errorf("NATS at %s: %w; %s", at, err, remedy)
	default:
		return fmt.Errorf("NATS at %s: %w", at, err)
	}
}

// natsRemedy says what to do where a connection to NATS failed with err, empty where that is not known.
func natsRemedy(err error) string {
	switch {
	case doctor.NATSServer.Remedy(err) != "":
		return doctor.NATSServer.Remedy(err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return "check NATS_CREDS, NATS_NKEY, NATS_USER with NATS_PASSWORD, NATS_TOKEN, or what NATS_CONTEXT has of these"
	case errors.Is(err, nats.ErrMaxConnectionsExceeded), errors.Is(err, nats.ErrMaxAccountConnectionsExceeded):
		return "raise max_connections of the server or the account; a worker takes one, with WORKER_ANSWER_TENANTS two, and each command one"
	case errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return "the account or the user is not valid any more: have new credentials issued, and name them in NATS_CREDS"
	case timedOut(err):
		return "check NATS_URL (--nats-url), the way there (a firewall?), whether the server hangs, and whether it waits for TLS (handshake_first: set NATS_TLS_FIRST=true)"
	}
	return ""
}

func timedOut(err error) bool {
	ne := (net.Error)(nil)
	return errors.As(err, &ne) && ne.Timeout()
}

// refusedError is that the server doesn't let the user do what a command takes.
type refusedError struct{ remedy string }

// Error implements error.
func (e *refusedError) Error() string { return e.remedy }

// endsIfRefused returns a context that ends, with a refusedError that says remedy, as soon as the server refuses
// something whose subject about approves of: JetStream would only let one wait for an answer. The option reports
// it to nobody else.
func endsIfRefused(ctx context.Context, remedy string, about func(text string) bool) (context.Context, nats.Option) {
	ctx, end := context.WithCancelCause(ctx)
	return ctx, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) && about(err.Error()) {
			end(&refusedError{fmt.Sprintf("%s: %v", remedy, err)})
		}
	})
}

// orRefusal returns why ctx ended if that was a refusal, else err.
func orRefusal(ctx context.Context, err error) error {
	if refused := (*refusedError)(nil); err != nil && errors.As(context.Cause(ctx), &refused) {
		return refused
	}
	return err
}

const operatorsOnly = "this NATS user may not do that; use an operator's (deploy/nats/accounts.conf)"

func anything(string) bool { return true }

// checkNames checks what somebody typed to name requests. An empty tenant or source means any; an empty id would
// mean every request there is, which nobody says in that way.
func checkNames(tenant, source string, ids ...string) error {
	switch {
	case tenant != "" && !provision.ValidTenant(tenant):
		return usagef("--tenant is %.80q; want a tenant's name: lower-case letters, digits, \"_\" and \"-\", at most 63", tenant)
	case len(source) > provision.MaxKeyPart:
		return usagef("--source has %d bytes; want 1 to %d bytes", len(source), provision.MaxKeyPart)
	}
	for _, id := range ids {
		switch {
		case id == "":
			return usagef("the id is empty; want 1 to %d bytes", provision.MaxKeyPart)
		case len(id) > provision.MaxKeyPart:
			return usagef("the id has %d bytes; want 1 to %d bytes", len(id), provision.MaxKeyPart)
		}
	}
	return nil
}
