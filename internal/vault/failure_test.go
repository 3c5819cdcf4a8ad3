package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	vaultapi "github.com/hashicorp/vault/api"

	canaries "github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// TestVerdicts writes down what every status means.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	type verdict struct {
		problem provision.SecretProblem
		cause   provision.Cause
		quick   bool
	}
	denied := verdict{provision.SecretDenied, "", false}
	wait := verdict{provision.SecretUnavailable, provision.CauseStatus, false}
	again := verdict{provision.SecretUnavailable, provision.CauseStatus, true}
	throttled := verdict{provision.SecretUnavailable, provision.CauseThrottled, true}
	for status, want := range map[int]struct{ read, login verdict }{
		400: {wait, denied}, 401: {wait, denied}, 403: {denied, denied}, 404: {wait, denied}, 405: {wait, denied},
		408: {again, again}, 412: {again, again}, 413: {wait, denied}, 429: {throttled, throttled},
		500: {again, again}, 501: {again, again}, 502: {again, again}, 503: {again, again}, 504: {again, again},
	} {
		err := fmt.Errorf("wrapped: %w", &vaultapi.ResponseError{StatusCode: status, Errors: []string{"no"}})
		for op, want := range map[operation]verdict{opRead: want.read, opLogin: want.login, opRenew: want.login} {
			got := classify(op, "do it", err)
			if (verdict{got.Problem, got.Cause, got.quick}) != want {
				t.Errorf("%s, HTTP %d: got %+v, want %+v", op, status, got, want)
			}
			if !strings.Contains(got.Error(), fmt.Sprint(status)) || !strings.Contains(got.Error(), "do it") {
				t.Errorf("%s, HTTP %d: %v", op, status, got)
			}
		}
		raw := classify(opRead, "do it", &vaultapi.ResponseError{StatusCode: status, RawError: true, Errors: []string{canary}})
		if raw.Problem != provision.SecretUnavailable || strings.Contains(raw.Error(), canary) {
			t.Errorf("a proxy's HTTP %d: %v", status, raw)
		}
	}
}

func TestNetworkErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   error
		cause provision.Cause
		quick bool
		part  string
	}{
		"refused":  {&url.Error{Op: "Get", URL: "https://vault/v1/x", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, provision.CauseNetwork, true, "refused"},
		"deadline": {&url.Error{Op: "Get", URL: "https://vault/v1/x", Err: context.DeadlineExceeded}, provision.CauseTimeout, true, "no answer in time"},
		"dns":      {&net.DNSError{Err: "no such host", IsTimeout: true}, provision.CauseTimeout, true, "no such host"},
		"canceled": {context.Canceled, provision.CauseNetwork, false, "canceled"},
		"echo":     {errors.New("bad\nheader: hvs." + canary), provision.CauseNetwork, true, "bad header: hvs.[redacted]"},
	} {
		got := classify(opRead, "read x", tc.err, "", canary)
		if got.Problem != provision.SecretUnavailable || got.Cause != tc.cause || got.quick != tc.quick {
			t.Errorf("%s: got %+v", name, got)
		}
		if text := got.Error(); !strings.Contains(text, tc.part) || strings.Contains(text, canary) || strings.Contains(text, "https://") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestMessagesAreOneShortCleanLine(t *testing.T) {
	t.Parallel()
	re := &vaultapi.ResponseError{StatusCode: 403, Errors: []string{
		"1 error occurred:\n\t* permission denied\n\n", "token " + canary + " \x1b[31m" + strings.Repeat("ü", 500),
	}}
	got := classify(opRead, "read x", re, canary).Error()
	if strings.ContainsAny(got, "\n\t\x1b") || strings.Contains(got, canary) || utf8.RuneCountInString(got) > maxMessage+100 || !utf8.ValidString(got) {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(got, "1 error occurred: * permission denied") {
		t.Errorf("got %q", got)
	}
	if got := messages(&vaultapi.ResponseError{}, nil); got != "" {
		t.Errorf("no messages give %q", got)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 10, 21, 7, 27, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-1": 0, "99999999999999999999": 0, "x": 0, "100000": maxRetryAfter,
		"Wed, 21 Oct 2026 07:28:00 GMT": time.Minute, "Wed, 21 Oct 2026 07:26:00 GMT": 0, "Wed, 21 Oct 2099 07:26:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// TestRetryAfterIsToldToTheHub where it is too long for the quick retries: the hub has the time.
func TestRetryAfterIsToldToTheHub(t *testing.T) {
	t.Parallel()
	for _, status := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, serverOf(vaulttest.Config{}), Config{})
			_, _ = h.resolve(false)
			h.server.SetOutage(vaulttest.Outage{Status: status, Path: "/v1/secret/", RetryAfter: time.Minute})
			before := h.server.Count("/v1/secret/")
			_, err := h.resolve(false)
			if e := checkProblem(t, err, provision.SecretUnavailable); e.RetryAfter != time.Minute {
				t.Errorf("HTTP %d: RetryAfter %v, want 1m", status, e.RetryAfter)
			}
			if n := h.server.Count("/v1/secret/") - before; n != 1 {
				t.Errorf("HTTP %d: asked %d times within the minute", status, n)
			}
		})
	}
}

func TestKeyringForgetsTheOldest(t *testing.T) {
	t.Parallel()
	var k keyring
	for i := range maxKnown + 2 {
		k.add(fmt.Sprint("secret-", i))
		k.add("")
		k.add(fmt.Sprint("secret-", i))
	}
	got := k.with("now")
	if len(got) != maxKnown+1 || got[0] != "now" || slices.Contains(got, "secret-1") || !slices.Contains(got, "secret-2") {
		t.Errorf("got %q", got)
	}
}

// TestErrorsTellNoSecretInAnySpelling has Vault, or a proxy before it, say a secret back in every spelling
// that the scrubber knows.
func TestErrorsTellNoSecretInAnySpelling(t *testing.T) {
	t.Parallel()
	secret := canaries.New()
	hunt := canaries.NewHunt(map[string]string{"secret": secret})
	for name, spelling := range canaries.Spellings {
		said := spelling.Write(secret)
		if hunt.Search("planted", said) != 1 {
			t.Fatalf("%s: the hunt finds nothing", name)
		}
		for sink, err := range map[string]error{
			"answer":  &vaultapi.ResponseError{StatusCode: 403, Errors: []string{"1 error occurred:\n\t* bad " + said, said}},
			"proxy":   &vaultapi.ResponseError{StatusCode: 502, RawError: true, Errors: []string{said}},
			"network": errors.New("bad header: " + said),
			"quoted":  fmt.Errorf("malformed HTTP response %q", said),
		} {
			for _, op := range []operation{opRead, opLogin, opRenew} {
				f := classify(op, "do it", err, "", secret)
				if hunt.Search(sink, fmt.Sprintf("%v %+v", f, errors.Unwrap(f))) != 0 {
					t.Errorf("%s, %s: %v", name, sink, f)
				}
			}
		}
	}
}

// TestAnAnswerThatIsNoneIsNotQuoted gives bodies and headers that can't be read.
func TestAnAnswerThatIsNoneIsNotQuoted(t *testing.T) {
	t.Parallel()
	secret := canaries.Plain() // of nobody whom the client knows
	for _, body := range []string{secret, `{"data":"` + secret, `{"errors":"` + secret + `"}`, `"` + secret + `"`, `{"data":{"ttl":"` + secret + `"}}`,
		`{"auth":{"client_token":"` + secret + `\n"}}`, "<html>" + secret} {
		for _, status := range []int{200, 204, 400, 403, 404, 500} {
			synctest.Test(t, func(t *testing.T) { checkNotQuoted(t, secret, status, body) })
		}
	}
}

func checkNotQuoted(t *testing.T, secret string, status int, body string) {
	t.Helper()
	answers := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Vault-Hint", secret)
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			_, _ = w.Write([]byte(body))
		}
	})
	h := start(t, nil, Config{transport: inMemory{answers}, Token: provision.NewSensitive("hvs.root")})
	_, err := h.resolve(false)
	hunt := canaries.NewHunt(map[string]string{"secret": secret})
	said := fmt.Sprint(err, h.client.Ready(), h.client.Health(t.Context()))
	if hunt.Search("errors", said) != 0 || hunt.Search("log", h.witness.String()) != 0 {
		t.Errorf("HTTP %d, %s: %+v", status, body, hunt.Hits())
	}
}

// TestWhatTheWorkerLoggedInWithIsNotToldLater has a read refused with the words of the login.
func TestWhatTheWorkerLoggedInWithIsNotToldLater(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"token": canaries.New(), "another token": canaries.New()}
	hunt := canaries.NewHunt(secrets)
	var known keyring
	for _, s := range secrets {
		known.add(s)
	}
	err := &vaultapi.ResponseError{StatusCode: 403, Errors: []string{secrets["token"], secrets["another token"]}}
	if f := classify(opRead, "do it", err, known.with("now")...); hunt.Search("error", f.Error()) != 0 {
		t.Error(f)
	}
}
