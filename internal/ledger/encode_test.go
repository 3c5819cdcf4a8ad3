package ledger

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// createdRecord is the record of a request that took one POST, as it is written last.
func createdRecord() provision.Record {
	at := time.Date(2026, 11, 22, 3, 0, 0, 123456789, time.UTC)
	key := provision.Key{Tenant: "acme", Source: "/portal/onboarding", ID: "0b9c8d6e-2f40-4a3c-9a55-3f1f5f0a7d21"}
	spec := provision.ConnectionSpec{ID: "e9d7ec6b-0873-4e57-ad21-b3a7c65e310b", Version: "1.0"}
	const name, owner = "Databricks connection to Experience Platform", "worker-6f7c9d5b8-x2x7p-ABCDEFGH"
	return provision.Record{
		Key: key, State: provision.StateCreated, Fingerprint: "b7e23ec29af22b0b4e41da31e868d57226121c84b7e23ec29af22b0b4e41da31",
		Nonce: "MZXW6YTBOI======ABCDEFGHIJ", Owner: owner, HeldSeq: 123456, HeldDelivered: 1,
		FirstPostAt: at, PostedAt: at, Lease: 75 * time.Second, EndedAt: at, EndedBy: owner, Posts: 1,
		Sandbox: "prod", Name: name, ConnectionSpec: spec, RequestedAt: at, StartedAt: at, Deadline: at, UpdatedAt: at,
		Secrets: map[string]int{"databricks/acme#accessToken": 3, "adobe": 1},
		Attempts: []provision.Attempt{
			{At: at, Owner: owner, Step: "post", Result: "created", Elapsed: 1.5},
			{At: at, Owner: owner, Step: "final", Result: "created"},
		},
		Final: &provision.FinalResult{EventID: "9b1b15a0c0ffee009b1b15a0c0ffee00", Outcome: provision.OutcomeCreated, Result: provision.Result{
			Request: provision.RequestID{ID: key.ID, Source: key.Source}, Tenant: key.Tenant, Sandbox: "prod", Name: name, ConnectionSpec: &spec,
			Connection: &provision.Connection{ID: "5ac090ca-4ae2-4872-ae4d-963b78e4243f", Etag: `"1f00c0de-0000-0100-0000-65a0"`},
			Attempts:   1, RequestedAt: at, StartedAt: at, CompletedAt: at}},
	}
}

// Workers of other versions, which use encoding/json, share the bucket during a rolling update. (A byte that is no UTF-8
// is the one difference: it becomes U+FFFD itself, not its escape.)
func TestRecordsHaveTheFormOfEncodingJSON(t *testing.T) {
	t.Parallel()
	rec := createdRecord()
	failed := rec
	failed.State, failed.LastFail = provision.StateFailed, provision.Fail(provision.ReasonFlowRejected, "a \"quoted\" <text> & ünïcode\u2028\x01")
	failed.Missing, failed.Attempts, failed.Secrets, failed.Final = nil, nil, map[string]int{"b": 2, "a": 1, "": 0}, nil
	records := []provision.Record{rec, failed, {Key: rec.Key, State: provision.StateClaimed, UpdatedAt: time.Date(2026, 1, 1, 1, 1, 1, 1e6, time.FixedZone("", 3600))}}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var hard provision.Record
		fill(rng, reflect.ValueOf(&hard).Elem())
		hard.Key, hard.State = rec.Key, provision.States[rng.IntN(len(provision.States))]
		records = append(records, hard)
	}
	for _, rec := range records {
		want, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		got, err := encode(rec.Key, rec)
		if err != nil || string(got) != string(want) {
			t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
		}
		var old provision.Record
		if err := json.Unmarshal(got, &old); err != nil {
			t.Fatal(err)
		}
		if again, err := decode(rec.Key, want, strict); err != nil || !cmp.Equal(again, old) {
			t.Errorf("%v\n%s", err, cmp.Diff(old, again))
		}
	}
}

// fill sets v, and all that is in it, to values that are hard to write the same way twice.
func fill(rng *rand.Rand, v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		if rng.IntN(4) > 0 {
			v.Set(reflect.ValueOf(time.Unix(rng.Int64N(4e9), rng.Int64N(1e9)).In(time.FixedZone("", 3600*rng.IntN(3)))))
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		hard := []rune("a<&>/\"\\\n\x00\x7f\u00ad\u2028\ufffdé😀")
		var text []rune
		for range rng.IntN(6) {
			text = append(text, hard[rng.IntN(len(hard))])
		}
		v.SetString(string(text))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt([]int64{0, 1, math.MinInt64, rng.Int64()}[rng.IntN(4)])
	case reflect.Uint64:
		v.SetUint([]uint64{0, 1, math.MaxUint64, rng.Uint64()}[rng.IntN(4)])
	case reflect.Float64:
		v.SetFloat([]float64{0, math.Copysign(0, -1), 1e-7, 1e21, rng.NormFloat64(), rng.NormFloat64() * 1e-9, rng.ExpFloat64() * 1e24}[rng.IntN(7)])
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rng, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(rng, v.Field(i))
		}
	case reflect.Slice:
		if n := rng.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
			for i := range n - 1 {
				fill(rng, v.Index(i))
			}
		}
	case reflect.Map:
		if n := rng.IntN(4); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n - 1 {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				fill(rng, key)
				fill(rng, value)
				v.SetMapIndex(key, value)
			}
		}
	default:
		panic("fill: a record has a field of a kind that is new to it: " + v.Type().String())
	}
}

func BenchmarkEncodeRecord(b *testing.B) {
	rec := createdRecord()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode(rec.Key, rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	rec := createdRecord()
	text, err := encode(rec.Key, rec)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(rec.Key, text, strict); err != nil {
			b.Fatal(err)
		}
	}
}

// deafWatcher is a watch that the client library never closes.
type deafWatcher struct{ jetstream.KeyWatcher }

func (deafWatcher) Stop() error                             { return nil }
func (deafWatcher) Updates() <-chan jetstream.KeyValueEntry { return nil }

// TestDiscardWaitsForNobody: whoever asked for a watch that never closes must not hang with it, and
// nothing stays behind for ever (the bubble would not end).
func TestDiscardWaitsForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		discard(deafWatcher{})
		if time.Since(began) != 0 {
			t.Errorf("waited %v", time.Since(began))
		}
		<-time.After(2 * discardWithin)
	})
}
