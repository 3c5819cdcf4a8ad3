// Package doctor looks whether all that a worker needs is there and lets it in: NATS and its objects,
// Vault and the tenants' secrets, Adobe's token service, the Flow Service, and clocks that agree.
//
// It changes nothing anywhere. What it publishes to try a permission names a stream that does not
// exist, so that the server refuses it.
package doctor

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// Status says how a check ended.
type Status string

// The ways a check ends.
const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but somebody should look at it
	Fail Status = "fail" // does not work
)

// Finding is what one check found.
type Finding struct {
	Check  string `json:"check"` // such as "nats" or "vault login"
	Status Status `json:"status"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"` // empty where What says it, or nothing is wrong
}

// Config says what to look at. Settings, Connect and Report must be set.
type Config struct {
	Settings settings.Settings
	Tenant   string                     // whose credentials are tried; empty means that all known tenants' are only read
	Sandbox  string                     // whose connections are listed; empty means none; needs Tenant
	Connect  func() (*nats.Conn, error) // to NATS; its error says what to do
	Report   func(Finding)              // called for every finding, one after the other
	NoVault  string                     // which settings of Vault's are missing; empty means none, else Vault is not asked
}

// patience bounds one check that waits for others; the ledger may take longer.
const (
	patience       = 20 * time.Second
	ledgerPatience = time.Minute
)

// clockTolerance is what two clocks may differ before it is told: half of what the worker assumes.
const clockTolerance = 5 * time.Second

// examination is one run.
type examination struct {
	Config
	tenants []string        // seen in the ledger, sorted
	specIDs []string        // of connection specs, likewise
	flowUp  bool            // the Flow Service answers
	imsSeen bool            // a token was asked for, or nobody needs one
	sound   map[string]bool // check → it was made, and nothing but OK was found
}

// Run makes all checks. What can't be checked because an earlier check failed is left out. It returns
// when ctx ends, at the latest.
func Run(ctx context.Context, cfg Config) {
	x := &examination{Config: cfg}
	x.nats(ctx)
	if ctx.Err() == nil {
		x.upstream(ctx)
	}
}

func (x *examination) ok(check, what string)           { x.add(Finding{check, OK, what, ""}) }
func (x *examination) warn(check, what, remedy string) { x.add(Finding{check, Warn, what, remedy}) }
func (x *examination) fail(check, what, remedy string) { x.add(Finding{check, Fail, what, remedy}) }

// add reports a finding, and notes it for the checks that build on this one.
func (x *examination) add(f Finding) {
	if x.sound == nil {
		x.sound = map[string]bool{}
	}
	was, made := x.sound[f.Check]
	x.sound[f.Check] = f.Status == OK && (was || !made)
	x.Report(f)
}

// failed reports that a server could not be used, with the remedy for TLS where it is that.
func (x *examination) failed(check string, server Peer, err error, remedy string) {
	x.fail(check, err.Error(), cmp.Or(server.Remedy(err), remedy))
}
