package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

func TestSamplesAreValidButForTheOneThatIsNot(t *testing.T) {
	t.Parallel()
	list, err := samples()
	if err != nil {
		t.Fatal(err)
	}
	dec := &event.Decoder{AllowedDomains: []string{"azuredatabricks.net"}}
	labels := map[string]bool{}
	for _, s := range list {
		m, err := event.EncodeRequest(event.Draft{Body: s.Data, ID: s.ID, Source: "/s"})
		if err != nil {
			t.Fatalf("%s: %v", s.Label, err)
		}
		d := dec.Decode(s.Tenant, m.Headers, m.Body, event.Meta{})
		if invalid := d.Invalid != nil; invalid != (s.Label == "plaintext") {
			t.Errorf("%s: %v", s.Label, d.Invalid)
		}
		for _, f := range s.Faults {
			if err := f.Validate(); err != nil {
				t.Errorf("%s: %v", s.Label, err)
			}
		}
		if s.AfterOf != "" && !labels[s.AfterOf] {
			t.Errorf("%s waits for %q, which is not before it", s.Label, s.AfterOf)
		}
		labels[s.Label] = true
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	s := sample{Label: "x", Want: "adopted", Made: 1, Posts: 1}
	adopted := provision.Result{Outcome: provision.OutcomeCreated, Adopted: true, Connection: &provision.Connection{ID: "c"}}
	created := adopted
	created.Adopted = false
	failed := provision.Result{Outcome: provision.OutcomeFailed, Error: provision.Fail(provision.ReasonExpired, "late")}
	for name, tc := range map[string]struct {
		r           provision.Result
		posts, made int
		got         string
		problem     string
	}{
		"as expected":     {adopted, 1, 1, "adopted", ""},
		"another outcome": {created, 1, 1, "created", "another outcome"},
		"a failure":       {failed, 1, 1, "expired", "another outcome"},
		"made twice":      {adopted, 1, 2, "adopted", "1 connections were to be there"},
		"posted twice":    {adopted, 2, 1, "adopted", "1 POSTs were to be seen"},
	} {
		v := s.judge(tc.r, tc.posts, tc.made)
		if v.Got != tc.got || v.Problem != tc.problem || v.OK != (tc.problem == "") {
			t.Errorf("%s: got %+v", name, v)
		}
	}
}

// conclude is what --once goes by.
func TestConclude(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &demo{Config: Config{Out: &out, Once: true, Colours: true}, verdicts: make([]verdict, 2)}
	d.verdict(0, verdict{Sample: "a", OK: true})
	d.verdict(1, verdict{Sample: "b", Problem: "another outcome"})
	if err := d.conclude(); !errors.Is(err, ErrUnexpected) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"1 of 2 samples", colours[story.Bad] + "NOT as expected: another outcome", colours[story.Good] + "as expected"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	d.verdict(1, verdict{Sample: "b", OK: true})
	if err := d.conclude(); err != nil {
		t.Errorf("got %v", err)
	}
}

// Nothing that others wrote steers the terminal, with colours of our own or without.
func TestOutputIsSafe(t *testing.T) {
	t.Parallel()
	const hostile = "x\x1b]0;owned\a\u202e\r\ny\u009b"
	const shown = `x\x1b]0;owned\a\u202e\r\ny\u009b`
	for _, colour := range []bool{true, false} {
		var out bytes.Buffer
		d := &demo{Config: Config{Out: &out, Once: true, Colours: colour}, verdicts: make([]verdict, 1)}
		d.line(hostile, story.Line{Tone: story.Bad, Text: hostile})
		d.verdict(0, verdict{Sample: hostile, Tenant: hostile, Want: hostile, Got: hostile, Problem: hostile})
		if err := d.conclude(); !errors.Is(err, ErrUnexpected) {
			t.Errorf("got %v", err)
		}
		text := out.String()
		for _, ours := range []string{colours[story.Bad], colourOff} {
			text = strings.ReplaceAll(text, ours, "")
		}
		if n := strings.Count(text, shown); n != 7 || strings.ContainsAny(text, "\x1b\a\r\u202e\u009b") || strings.Count(text, "\n") != 6 {
			t.Errorf("%d times of 7 in:\n%q", n, text)
		}
	}
}

func TestJSONPrintsNothingElse(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &demo{Config: Config{Out: &out, JSON: true}, verdicts: make([]verdict, 1)}
	d.hello()
	d.line("a", story.Line{Text: "something"})
	d.verdict(0, verdict{Sample: "a", OK: true})
	if err := d.conclude(); err != nil {
		t.Error(err)
	}
	var v verdict
	if err := json.Unmarshal(out.Bytes(), &v); err != nil || v.Sample != "a" || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestStoppedBeforeItBegan(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := Run(ctx, Config{Out: &out}); err != nil {
		t.Errorf("Ctrl-C at the start is no failure: %v", err)
	}
}
