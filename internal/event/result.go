package event

import (
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// envelope is a result event as it is written: the fields in this order.
type envelope struct {
	SpecVersion     string           `json:"specversion"`
	ID              string           `json:"id"`
	Source          string           `json:"source"`
	Type            string           `json:"type"`
	Subject         string           `json:"subject"`
	Time            time.Time        `json:"time"`
	DataContentType string           `json:"datacontenttype"`
	TraceParent     string           `json:"traceparent,omitempty"`
	TraceState      string           `json:"tracestate,omitempty"`
	Data            provision.Result `json:"data"`
}

// ResultSubject returns the subject that a result is published on.
func ResultSubject(r provision.Result) string {
	return "connections.results." + r.Tenant + "." + r.Outcome
}

// RequestSubject returns the subject that a tenant's requests are published on.
func RequestSubject(tenant string) string { return "connections.requests." + tenant }

// EncodeResult returns a result as a structured CloudEvent of ContentType. Equal results give equal
// bytes. It fails on an outcome that is none and on times that RFC 3339 can't write.
func EncodeResult(r provision.Result) ([]byte, error) {
	var typ string
	switch r.Outcome {
	case provision.OutcomeCreated:
		typ = TypeCreated
	case provision.OutcomeFailed:
		typ = TypeFailed
	default:
		return nil, fmt.Errorf("event: %q is no outcome of a request", r.Outcome)
	}
	r.RequestedAt, r.StartedAt, r.CompletedAt = r.RequestedAt.UTC(), r.StartedAt.UTC(), r.CompletedAt.UTC()
	body, err := marshal(&envelope{
		SpecVersion:     specVersion,
		ID:              r.EventID,
		Source:          "/flow-worker/" + r.Tenant,
		Type:            typ,
		Subject:         r.Request.ID,
		Time:            r.CompletedAt,
		DataContentType: "application/json",
		TraceParent:     r.Trace.Parent,
		TraceState:      r.Trace.State,
		Data:            r,
	})
	if err != nil {
		return nil, fmt.Errorf("event: encode result: %w", err)
	}
	return body, nil
}

// DecodeResult reads what EncodeResult wrote, now or in a later version: fields it doesn't know are
// ignored.
func DecodeResult(body []byte) (provision.Result, error) {
	var e envelope
	if err := json.Unmarshal(body, &e, wireForm...); err != nil {
		return provision.Result{}, fmt.Errorf("event: decode result: %w", err)
	}
	switch e.Type {
	case TypeCreated:
		e.Data.Outcome = provision.OutcomeCreated
	case TypeFailed:
		e.Data.Outcome = provision.OutcomeFailed
	default:
		return provision.Result{}, fmt.Errorf("event: type %q is no result; want %s or %s", e.Type, TypeCreated, TypeFailed)
	}
	if e.SpecVersion != specVersion {
		return provision.Result{}, fmt.Errorf("event: specversion %q of a result; want %s", e.SpecVersion, specVersion)
	}
	if e.ID == "" || e.Source != "/flow-worker/"+e.Data.Tenant {
		return provision.Result{}, fmt.Errorf("event: a result of source %q does not fit its tenant %q", e.Source, e.Data.Tenant)
	}
	e.Data.EventID = e.ID
	e.Data.Trace = provision.Trace{Parent: e.TraceParent, State: e.TraceState}
	return e.Data, nil
}

// wireForm is that of encoding/json without the escapes that only HTML needs. A byte that is no UTF-8 is written as
// U+FFFD, so that what is encoded again after a stay in the ledger has the same bytes.
var wireForm = []json.Options{jsonv1.DefaultOptionsV1(), jsontext.EscapeForHTML(false)}

func marshal(v any) ([]byte, error) { return json.Marshal(v, wireForm...) }
