package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// foreignAnswer is the error of a call that was answered, but not by Vault: by a proxy that has no route or
// no backend, a captive portal, a wrong address. It says nothing of a secret, a token or a login. Its text
// holds nothing of the answer, which may be anything, such as an echo of the request with its token.
type foreignAnswer struct {
	status int
	what   string // what is missing or not as Vault has it
}

// Error says what the answer lacks, and what to look at.
func (e *foreignAnswer) Error() string {
	return fmt.Sprintf("HTTP %d, %s: the answer is not Vault's own but of something in its place; check VAULT_ADDR and what stands before Vault", e.status, e.what)
}

// errWrapped is the error of a call that Vault answered with a wrapping token instead of what was asked for.
var errWrapped = errors.New("the answer is a wrapping token, which the worker does not unwrap; take min_wrapping_ttl out of the policy for this path, " +
	"and the header X-Vault-Wrap-TTL out of VAULT_HEADERS and of what stands before Vault")

// genuineTransport lets only answers through that are Vault's own, so that whatever reads them need not ask.
// Statuses that decide nothing, whoever sent them, pass as they are.
type genuineTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t genuineTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil || decidesNothing(resp.StatusCode) {
		return resp, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)) // the body itself fails above maxAnswer
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if err := genuine(r.URL.Path, resp.StatusCode, body); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// CloseIdleConnections lets http.Client reach the transport below.
func (t genuineTransport) CloseIdleConnections() { closeIdle(t.next) }

// decidesNothing reports whether a status only means that the call has to be tried again.
func decidesNothing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusPreconditionFailed, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// genuine returns a *foreignAnswer or errWrapped where an answer to a request for path is not Vault's own.
//
// Vault's success has a request_id. Its refusal is a list of errors, perhaps with data and warnings, and
// nothing else; a 404 may be a success without errors, whose data or warnings say what there is instead, in the
// frame of one.
// Its health is told without any frame.
func genuine(path string, status int, body []byte) error {
	foreign := func(what string) error { return &foreignAnswer{status: status, what: what} }
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		if len(body) == 0 {
			return foreign("an empty body")
		}
		return foreign("no JSON object")
	}
	if strings.HasSuffix(path, "/v1/sys/health") { // there may be a prefix in VAULT_ADDR
		var health struct{ Initialized, Sealed *bool }
		if status < 300 && (json.Unmarshal(body, &health) != nil || health.Initialized == nil || health.Sealed == nil) {
			return foreign("without Vault's fields initialized and sealed")
		}
		if status < 300 {
			return nil
		}
	}
	var frame struct {
		RequestID string                  `json:"request_id"`
		Wrap      *struct{ Token string } `json:"wrap_info"`
	}
	framed := json.Unmarshal(body, &frame) == nil && frame.RequestID != ""
	switch {
	case status == http.StatusOK && frame.Wrap != nil && frame.Wrap.Token != "":
		return errWrapped
	case status == http.StatusOK && framed:
		return nil
	case status == http.StatusOK:
		return foreign("without Vault's request_id")
	case status < 300:
		return foreign("which Vault does not answer to this call")
	case !refusal404(fields, status, framed) && !refused4xx(fields):
		return foreign("without Vault's list of errors")
	}
	return nil
}

// refused4xx reports whether fields are those of a refusal of Vault's.
func refused4xx(fields map[string]json.RawMessage) bool {
	var errs []string
	if json.Unmarshal(fields["errors"], &errs) != nil || errs == nil {
		return false
	}
	for name := range fields {
		switch name {
		case "errors", "data", "warnings":
		default:
			return false // such as "message" or "status"
		}
	}
	return true
}

// refusal404 reports whether fields are those of Vault's 404 without errors: of a deleted version, or with
// the hint that the path is not one of this engine.
func refusal404(fields map[string]json.RawMessage, status int, framed bool) bool {
	var data map[string]json.RawMessage
	var warnings []string
	if status != http.StatusNotFound || !framed {
		return false
	}
	_ = json.Unmarshal(fields["data"], &data)
	_ = json.Unmarshal(fields["warnings"], &warnings)
	_, deleted := data["metadata"]
	return deleted || len(warnings) > 0
}
