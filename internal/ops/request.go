package ops

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/story"
)

// Story is one request's story, as /requests/<key>.json tells it.
type Story struct {
	Record   provision.Record `json:"record"`
	Outcome  string           `json:"outcome"` // its state in one word, or with the reason of its failure
	Next     Next             `json:"next"`
	Remedy   string           `json:"remedy,omitempty"` // what a person can do about a failure
	Commands []Command        `json:"commands"`
	Timeline []Event          `json:"timeline"`
}

// Next is what comes next for a request.
type Next struct {
	Text string    `json:"text"`
	At   time.Time `json:"at,omitzero"` // when; left out where nobody knows
}

// Command is a command line that acts on a request.
type Command struct {
	Line string `json:"line"`
	Does string `json:"does"`
}

// Event is one entry of a request's timeline.
type Event struct {
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds,omitempty"` // that it took
	Retry   int       `json:"retry,omitempty"`
	Worker  string    `json:"worker,omitempty"`
	Tone    string    `json:"tone,omitempty"` // "good", "bad" or "odd"
	Text    string    `json:"text"`
	Detail  string    `json:"detail,omitempty"`
}

// tones are the words for story's tones.
var tones = map[story.Tone]string{story.Good: "good", story.Bad: "bad", story.Odd: "odd"} // :: tone → its name

func storyOf(rec provision.Record, now time.Time) Story {
	next := story.WhatNext(rec, now)
	s := Story{Record: rec, Outcome: story.Outcome(rec), Next: Next{next.Text, next.At}, Commands: []Command{}, Timeline: []Event{}}
	if rec.Final != nil {
		s.Remedy = story.Remedy(rec.Final.Result.Error)
	}
	for _, c := range story.Commands(rec) {
		s.Commands = append(s.Commands, Command(c))
	}
	for _, e := range story.Timeline(rec) {
		s.Timeline = append(s.Timeline, Event{e.At, e.Took.Seconds(), e.Retry, e.Worker, tones[e.Tone], e.Text, e.Detail})
	}
	return s
}

// storyPage is the page of one request.
type storyPage struct {
	frame
	ID, Name, Tenant string
	State, StateTone string
	Lead             string // how it stands, in a sentence
	Cause            string // of its failure, or of what is in its way; empty if nothing is
	Help             string // what a person can do about it; may be empty
	Next             string
	NextAt, NextIn   string
	Facts            []fact
	Events           []eventRow
	Commands         []commandRow
	Stream, JSON     string
}

type commandRow struct{ Line, Does string }

type fact struct{ Name, Value string }

type eventRow struct{ At, Clock, Since, Text, Detail, Took, Worker, Tone string }

func (s *Status) storyPage(snap Snapshot, st Story) storyPage {
	rec := st.Record
	p := storyPage{frame: s.frame(snap), ID: text(rec.Key.ID), Name: text(rec.Name), Tenant: text(rec.Key.Tenant),
		Next: sentenceOf(st.Next.Text), NextAt: machine(st.Next.At), Help: st.Remedy,
		Facts: facts(rec), Events: eventRows(st.Timeline), Stream: storyURL(rec.Key) + "/events", JSON: storyURL(rec.Key) + ".json"}
	if p.Next != "" {
		p.Next += "."
	}
	if !st.Next.At.IsZero() {
		p.NextIn = st.Next.At.UTC().Format("15:04:05Z") + ", " + strings.TrimPrefix(ago(snap.At, st.Next.At), "just ")
	}
	for _, c := range st.Commands {
		p.Commands = append(p.Commands, commandRow{text(c.Line), c.Does})
	}
	p.Title = p.ID + " · " + p.Title
	p.State, p.StateTone = pill(requestOf(Written{Record: rec}))
	p.Lead, p.Cause = lead(rec, snap.At)
	return p
}

// lead says how a request stands, and what caused that.
func lead(rec provision.Record, now time.Time) (words, cause string) {
	if rec.Final == nil {
		if rec.LastFail != nil {
			cause = text(rec.LastFail.Message)
		}
		return cmp.Or(openLeads[rec.State], "It has not ended: "+text(string(rec.State))+".") + " It entered the stream " + ago(now, rec.RequestedAt) + ".", cause
	}
	r := rec.Final.Result
	after := "."
	if d := r.CompletedAt.Sub(r.RequestedAt); !r.RequestedAt.IsZero() && d >= 0 {
		after = ", " + cmp.Or(took(d), "at once") + " after it entered the stream."
	}
	switch {
	case r.Error != nil:
		return "It failed with " + text(string(r.Error.Reason)) + after, text(r.Error.Message)
	case r.Connection == nil:
		return "It was created" + after, ""
	case r.Adopted:
		return "It has connection " + text(r.Connection.ID) + ", which was found there and adopted" + after, ""
	}
	return "It made connection " + text(r.Connection.ID) + after, ""
}

// openLeads say how a request stands that has not ended.
var openLeads = map[provision.State]string{ // :: state → a sentence
	provision.StateClaimed: "It was taken up, and nothing was posted yet.",
	provision.StatePosting: "It is being posted to the Flow Service.",
	provision.StateUnknown: "Nobody knows yet whether its POST made a connection, so it is looked up.",
	provision.StateWaiting: "It waits: its last POST made nothing for certain, and it is tried again.",
}

// facts returns what is known of a request beside its story, without what is not known.
func facts(rec provision.Record) []fact {
	list := []fact{
		{"Tenant", rec.Key.Tenant}, {"Source", rec.Key.Source}, {"Id", rec.Key.ID}, {"Sandbox", rec.Sandbox}, {"Connection name", rec.Name},
		{"Connection spec", strings.TrimSpace(rec.ConnectionSpec.ID + " " + rec.ConnectionSpec.Version)},
		{"Entered the stream", stamp(rec.RequestedAt)}, {"First taken up", stamp(rec.StartedAt)}, {"POSTs", strconv.Itoa(rec.Posts)}}
	if rec.Retry > 0 {
		list = append(list, fact{"Retry", strconv.Itoa(rec.Retry)})
	}
	list = append(list, endFacts(rec)...)
	if rec.Owner != "" {
		list = append(list, fact{"Worker", rec.Owner})
	}
	for _, name := range []string{"adobe", "token"} {
		if v, used := rec.Secrets[name]; used {
			list = append(list, fact{"Version of secret “" + name + "”", strconv.Itoa(v)})
		}
	}
	list = append(list, fact{"Trace", rec.Trace.ID()}, fact{"Ledger key", rec.Key.String()})
	for i := range list {
		list[i].Value = text(list[i].Value)
	}
	return slices.DeleteFunc(list, func(f fact) bool { return f.Value == "" })
}

func endFacts(rec provision.Record) []fact {
	if rec.Final == nil {
		return []fact{{"Gives up", stamp(rec.Deadline)}}
	}
	r := rec.Final.Result
	list := []fact{{"Ended", stamp(r.CompletedAt)}}
	if r.Connection != nil {
		list = append(list, fact{"Connection", r.Connection.ID}, fact{"Etag", r.Connection.Etag})
	}
	if r.Error == nil {
		return list
	}
	list = append(list, fact{"Reason", string(r.Error.Reason)}, fact{"Adobe's code", r.Error.Code}, fact{"Adobe's request id", r.Error.UpstreamRequestID})
	if r.Error.HTTPStatus != 0 {
		list = append(list, fact{"HTTP status", strconv.Itoa(r.Error.HTTPStatus)})
	}
	return list
}

// eventRows leaves out what the entry before has said already.
func eventRows(events []Event) []eventRow {
	rows := make([]eventRow, len(events))
	var before Event
	for i, e := range events {
		row := eventRow{At: machine(e.At), Clock: e.At.UTC().Format("15:04:05.000"), Since: e.At.UTC().Format("2006-01-02"), Text: sentenceOf(text(e.Text)),
			Took: took(time.Duration(e.Seconds * float64(time.Second))), Tone: e.Tone}
		if i > 0 {
			row.Since = "+" + length(e.At.Sub(before.At))
		}
		if e.Detail != before.Detail {
			row.Detail = text(e.Detail)
		}
		if e.Worker != before.Worker || e.Retry != before.Retry {
			var by []string
			if e.Worker != "" {
				by = append(by, "by "+text(e.Worker))
			}
			if e.Retry > 0 {
				by = append(by, fmt.Sprintf("retry %d", e.Retry))
			}
			row.Worker = strings.Join(by, ", ")
		}
		rows[i], before = row, e
	}
	return rows
}

// sentenceOf begins words with a capital letter.
func sentenceOf(words string) string {
	if words != "" && words[0] >= 'a' && words[0] <= 'z' {
		return strings.ToUpper(words[:1]) + words[1:]
	}
	return words
}
