package ops

import (
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

func tell(rec provision.Record, now time.Time) Story {
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
