package consumer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestRepairable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	young := &jetstream.StreamInfo{TimeStamp: now, State: jetstream.StreamState{Msgs: 2, FirstTime: now.Add(-28 * 24 * time.Hour)}}
	ancient := &jetstream.StreamInfo{TimeStamp: now, State: jetstream.StreamState{Msgs: 2, FirstTime: now.Add(-30 * 24 * time.Hour)}}
	for name, tc := range map[string]struct {
		stream *jetstream.StreamInfo
		info   jetstream.ConsumerInfo
		waited int
		want   string // part of why not
	}{
		"quiet":                     {young, jetstream.ConsumerInfo{}, 0, ""},
		"others wait":               {young, jetstream.ConsumerInfo{NumPending: 7}, 0, ""},
		"one is in hand":            {young, jetstream.ConsumerInfo{NumAckPending: 1}, 59, "hands"},
		"one always is in hand":     {young, jetstream.ConsumerInfo{NumAckPending: 1}, 60, ""},
		"the ledger may forget one": {ancient, jetstream.ConsumerInfo{}, 1000, "expired"},
	} {
		err := repairable(tc.stream, &tc.info, tc.waited)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// What did not help is not tried at every look.
func TestARepairIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	failed := errors.New("no right to")
	c := &Consumer{Config: Config{Sweep: SweepConfig{Interval: time.Minute}}}
	for ago, want := range map[time.Duration]error{59 * time.Minute: failed, 61 * time.Minute: nil} {
		s := &queueSweep{Consumer: c, tried: time.Now().Add(-ago), failed: failed}
		if err := s.recently(); !errors.Is(err, want) {
			t.Errorf("tried %v ago: %v, want %v", ago, err, want)
		}
	}
	if err := (&queueSweep{Consumer: c}).recently(); err != nil {
		t.Errorf("never tried: %v", err)
	}
}
