package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/demo"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/loopback"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
)

func (c *cli) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the worker at work, with everything it needs in one process",
		Long: `Run a NATS server, a Vault, a Flow Service emulator and the worker in one process; submit sample
requests, of which two fail on purpose; print what becomes of them, and keep running.`,
		Example: "  worker demo\n  worker demo --once",
		Args:    cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "end after the samples; exit 0 if every one ended as expected")
	trickle := cmd.Flags().Duration("trickle", 2*time.Second, "between the requests that keep coming after the samples; 0 = none do")
	asJSON := cmd.Flags().Bool("json", false, "print only results, as JSON lines")
	c.withSettings(cmd, func(ctx context.Context, set settings.Set, _ []string) error {
		cfg := demo.Config{Out: c.stdout, JSON: *asJSON, Colours: c.colours(), Once: *once, Trickle: *trickle, Program: program()}
		if cmd.Flags().Changed("log-level") { // the lines of the demo tell the same in fewer words
			cfg.Log = c.logger(set.Settings)
		}
		return demo.Run(ctx, cfg)
	}, settings.Log)
	return cmd
}

// program returns what to type to call this program again.
func program() string {
	exe, err := os.Executable()
	if err != nil {
		return "worker"
	}
	found, err := exec.LookPath(filepath.Base(exe))
	if same, ferr := filepath.Abs(found); err == nil && ferr == nil && same == exe {
		return filepath.Base(exe)
	}
	return exe
}

// emulation is the emulator command with its flags.
type emulation struct {
	*cli
	addr     string
	latency  time.Duration
	lag      time.Duration
	failRate float64
	lostRate float64
	stores   []string
	without  []string
	faults   []string
}

func (c *cli) emulatorCommand() *cobra.Command {
	e := &emulation{cli: c}
	cmd := &cobra.Command{
		Use:   "emulator",
		Short: "Run the Flow Service emulator alone, for your own tests",
		Long: `Run an emulator of Adobe's Flow Service and of IMS. It keeps everything in memory, accepts any
token, and misbehaves as told. Faults can be added and taken away while it runs, at /_emulator/faults.

Effects of faults: latency, status, reset, hang, cluster_stopped, bad_credentials, expired_token, rate_limit;
of creations: truncate, list_lag, initializing, store (habits), state, unique_names; of lists: omit (fields),
refuse_query (fields), unordered, fold_names. Habits of store: ids_lower, name_lower, name_nfc, name_blanks,
name_cut, description_lower, description_upper, description_blanks, description_html.`,
		Example: "  worker emulator --latency 200ms --lag 2s\n" +
			`  worker emulator --fault '{"operation":"create","effect":"reset","when":"after","times":1}'` + "\n" +
			"  worker emulator --stores ids_lower,name_nfc --lists-without description,state",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&e.addr, "addr", "127.0.0.1:8090", "address to listen on; it asks for no credentials, so keep it local")
	f.DurationVar(&e.latency, "latency", 0, "added to every answer")
	f.DurationVar(&e.lag, "lag", 0, "how long a new connection is missing from lists")
	f.Float64Var(&e.failRate, "fail-rate", 0, "share of calls answered with 503, 0 to 1")
	f.Float64Var(&e.lostRate, "lost-rate", 0, "share of creations whose answer is lost after the connection was made, 0 to 1")
	f.StringSliceVar(&e.stores, "stores", nil, "habits of storing otherwise than it was sent, such as ids_lower,name_nfc")
	f.StringSliceVar(&e.without, "lists-without", nil, "fields that lists leave out, such as description,state")
	f.StringArrayVar(&e.faults, "fault", nil, "one fault as JSON; may be given again")
	cmd.RunE = work(func(ctx context.Context, _ []string) error {
		faults, err := e.allFaults()
		if err != nil {
			return err
		}
		return e.serve(ctx, faults)
	})
	return cmd
}

// allFaults returns the faults that the flags ask for.
func (e *emulation) allFaults() ([]flowtest.Fault, error) {
	if e.latency < 0 || e.lag < 0 {
		return nil, usagef("--latency and --lag must not be negative")
	}
	var faults []flowtest.Fault
	for flag, rate := range map[string]float64{"fail-rate": e.failRate, "lost-rate": e.lostRate} {
		if rate < 0 || rate > 1 {
			return nil, usagef("--%s is %v; want 0 to 1", flag, rate)
		}
	}
	if e.failRate > 0 {
		faults = append(faults, flowtest.Fault{Effect: flowtest.EffectStatus, Status: http.StatusServiceUnavailable, Probability: e.failRate})
	}
	if e.lostRate > 0 {
		faults = append(faults, flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectReset, When: flowtest.StageAfter, Probability: e.lostRate})
	}
	habits, err := e.habits()
	if err != nil {
		return nil, err
	}
	faults = append(faults, habits...)
	for _, text := range e.faults {
		var f flowtest.Fault
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			return nil, usagef("--fault: %v; want JSON such as {\"operation\":\"create\",\"effect\":\"status\",\"status\":503,\"times\":2}", err)
		}
		if err := f.Validate(); err != nil {
			return nil, usagef("--fault: %v", err)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// habits returns the faults that --stores and --lists-without ask for.
func (e *emulation) habits() (faults []flowtest.Fault, err error) {
	if len(e.stores) > 0 {
		f := flowtest.Fault{Operation: flowtest.OpCreate, Effect: flowtest.EffectStore}
		for _, h := range e.stores {
			f.Habits = append(f.Habits, flowtest.Habit(h))
		}
		if err := f.Validate(); err != nil {
			return nil, usagef("--stores: %v", err)
		}
		faults = append(faults, f)
	}
	if len(e.without) > 0 {
		f := flowtest.Fault{Operation: flowtest.OpList, Effect: flowtest.EffectOmit, Fields: e.without}
		if err := f.Validate(); err != nil {
			return nil, usagef("--lists-without: %v", err)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// serve runs the emulator until ctx ends.
func (e *emulation) serve(ctx context.Context, faults []flowtest.Fault) error {
	em := flowtest.New(flowtest.Config{Latency: e.latency, ListLag: e.lag, AllowAnyToken: true})
	em.SetFaults(faults...)
	srv, err := loopback.Start(ctx, e.addr, em)
	if err != nil {
		return fmt.Errorf("can't listen on %s (%w); choose another by --addr", e.addr, err)
	}
	fmt.Fprintf(e.stdout, emulatorHelp, srv.URL)
	err = srv.Wait(ctx)
	if cerr := srv.Close(); err == nil {
		err = cerr
	}
	return err
}

const emulatorHelp = `The Flow Service emulator listens at %[1]s

For a worker:
  export FLOW_URL=%[1]s/data/foundation/flowservice IMS_URL=%[1]s

By hand:
  curl -s %[1]s/data/foundation/flowservice/connections \
    -H 'Authorization: Bearer any' -H 'x-api-key: any' -H 'x-gw-ims-org-id: any@AdobeOrg' -H 'x-sandbox-name: prod' \
    -H 'Content-Type: application/json' \
    -d '{"name":"Test","auth":{"specName":"Access Token Authentication","params":{"domain":"https://adb-1.7.azuredatabricks.net",
         "clusterId":"c","accessToken":"t","database":"d"}},"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}'
  curl -s %[1]s/_emulator/connections
  curl -s %[1]s/_emulator/faults -d '{"operation":"create","effect":"status","status":503,"times":2}'

Ctrl-C ends it.
`
