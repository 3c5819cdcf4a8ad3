package ops

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestMeter(t *testing.T) {
	t.Parallel()
	var m meter
	for s := range 120 { // one a second, every fourth failed
		m.count(noon.Add(time.Duration(s)*time.Second), s%4 == 0)
	}
	now := noon.Add(119 * time.Second)
	if m.done != 90 || m.failed != 30 {
		t.Errorf("got %d done and %d failed", m.done, m.failed)
	}
	if got := m.perSecond(now, noon); got != 1 {
		t.Errorf("got %v per second, want 1", got)
	}
	if got := m.perSecond(now.Add(30*time.Second), noon); got != 0.5 {
		t.Errorf("half a minute later: got %v per second, want 0.5", got)
	}
	bars := m.bars(now)
	if len(bars) != 60 || bars[59] != (Bar{8, 2}) && bars[59] != (Bar{7, 3}) || bars[47] != (Bar{}) {
		t.Errorf("got %v", bars)
	}
	sum := Bar{}
	for _, b := range bars {
		sum.Done, sum.Failed = sum.Done+b.Done, sum.Failed+b.Failed
	}
	if sum != (Bar{90, 30}) {
		t.Errorf("the bars hold %v", sum)
	}
}

// What was counted long ago counts no more, though its place is not used again.
func TestMeterForgets(t *testing.T) {
	t.Parallel()
	var m meter
	m.count(noon, false)
	for _, later := range []time.Duration{span * time.Second, time.Hour, 24 * time.Hour} {
		now := noon.Add(later)
		for i, b := range m.bars(now) {
			if b != (Bar{}) {
				t.Errorf("%v later: bar %d is %v", later, i, b)
			}
		}
		if got := m.perSecond(now, noon); got != 0 {
			t.Errorf("%v later: %v per second", later, got)
		}
	}
	m.count(noon.Add(span*time.Second), true) // the same place
	if done, failed := m.between(noon.Unix(), noon.Unix()+1); done != 0 || failed != 0 {
		t.Errorf("the first second holds %d and %d", done, failed)
	}
	if m.done != 1 || m.failed != 1 {
		t.Errorf("got %d and %d in all", m.done, m.failed)
	}
}

// A worker that has just begun is not made to look idle.
func TestMeterAtTheStart(t *testing.T) {
	t.Parallel()
	var m meter
	for range 10 {
		m.count(noon, false)
	}
	for up, want := range map[time.Duration]float64{0: 10, 500 * time.Millisecond: 10, 5 * time.Second: 2, 20 * time.Second: 0.5} {
		var fresh meter
		for range 10 {
			fresh.count(noon.Add(up), false)
		}
		if got := fresh.perSecond(noon.Add(up), noon); got != want {
			t.Errorf("after %v: %v per second, want %v", up, got, want)
		}
	}
}
