package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/app"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/requester"
	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// Config says how the demo runs. Out must be set.
type Config struct {
	Out     io.Writer
	JSON    bool          // print results as JSON lines, and nothing else
	Colours bool          // of the lines
	Once    bool          // end when all samples have ended
	Trickle time.Duration // between requests that keep coming after the samples; 0 means that none do
	Program string        // how people call this program, for the commands that are shown
	Log     *slog.Logger  // the worker's; nil means none
}

// patience is how long the samples may take together; they need a few seconds.
const patience = time.Minute

// ErrUnexpected means that at least one sample did not end as expected.
var ErrUnexpected = errors.New("not every sample ended as expected")

// Run starts everything, submits the samples, prints what becomes of them, and keeps running until
// ctx ends, or not with Once. Everything is gone when it returns, from the disk too.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &demo{Config: cfg, started: time.Now()}
	d.hello()
	d.world, err = newWorld(ctx)
	defer func() { err = errors.Join(err, d.world.Close()) }()
	if err != nil {
		return stopped(ctx, err)
	}
	workerCtx, stopWorker := context.WithCancel(ctx)
	defer stopWorker()
	ready := make(chan app.Addresses, 1)
	done := make(chan error, 1)
	s, err := d.world.settings()
	if err != nil {
		return err
	}
	go func() {
		done <- app.Run(workerCtx, s, app.Deps{Log: cfg.Log, Instance: "demo", Ready: func(a app.Addresses) { ready <- a }})
	}()
	select {
	case d.at = <-ready:
		err = d.perform(ctx, s, done)
	case err = <-done:
		done <- err
	}
	stopWorker()
	return errors.Join(stopped(ctx, err), <-done)
}

// stopped turns the error that an end of ctx has caused into none.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// demo is one run.
type demo struct {
	Config
	started time.Time
	world   *world
	at      app.Addresses
	client  *requester.Client

	mu       sync.Mutex // guards the rest and Out
	verdicts []verdict
}

// perform shows the samples, and then waits. The worker tells its end by done.
func (d *demo) perform(ctx context.Context, s settings.Settings, done chan error) error {
	d.ready()
	nc, err := nats.Connect(s.NATSURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if d.client, err = requester.New(ctx, js); err != nil {
		return err
	}
	if err := d.samples(ctx); err != nil {
		return err
	}
	if d.Once {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	trickled := make(chan struct{})
	go func() { defer close(trickled); d.trickle(ctx) }()
	defer func() { stop(); <-trickled }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-done:
		done <- err
		return err
	}
}

// samples submits all samples and prints what they came to.
func (d *demo) samples(ctx context.Context) error {
	list, err := samples()
	if err != nil {
		return err
	}
	d.submitting(len(list))
	ended := map[string]chan struct{}{} // :: label → closed at its end
	for _, s := range list {
		ended[s.Label] = make(chan struct{})
		for _, f := range s.Faults {
			d.world.flow.AddFault(f)
		}
	}
	d.verdicts = make([]verdict, len(list))
	limited, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the samples took longer than %v", patience))
	defer cancel()
	group, groupCtx := errgroup.WithContext(limited)
	for i, s := range list {
		group.Go(func() error {
			defer close(ended[s.Label])
			if s.AfterOf != "" {
				<-ended[s.AfterOf]
			}
			return d.show(groupCtx, i, s)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return d.conclude()
}

// show submits one sample and tells what happens to it.
func (d *demo) show(ctx context.Context, i int, s sample) error {
	messages, err := requester.Parse(bytes.NewReader(s.Data), requester.Options{
		Tenant: s.Tenant, ID: s.ID, Source: "/worker/demo", Decoder: &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}},
	})
	if err != nil {
		return fmt.Errorf("sample %s: %w", s.Label, err)
	}
	began := time.Now()
	return d.client.SubmitAndWait(ctx, s.Tenant, messages, requester.Progress{
		Published: func(requester.Message, uint64) {
			d.line(s.Label, story.Line{At: time.Now(), Text: "submitted for " + s.Tenant + ": " + s.About})
		},
		News: func(_ requester.Message, l story.Line) { d.line(s.Label, l) },
		Result: func(_ requester.Message, r provision.Result) {
			posts, made := d.world.seen(s.name())
			v := s.judge(r, posts, made)
			v.Seconds = time.Since(began).Round(time.Millisecond).Seconds()
			d.verdict(i, v)
		},
	})
}

// seen counts the POSTs for a connection name and the connections of that name.
func (w *world) seen(name string) (posts, made int) {
	for _, r := range w.flow.Requests() {
		var body struct{ Name string }
		if r.Operation == flowtest.OpCreate && json.Unmarshal(r.Body, &body) == nil && body.Name == name {
			posts++
		}
	}
	for _, c := range w.flow.Connections() {
		if c.Name == name {
			made++
		}
	}
	return posts, made
}
