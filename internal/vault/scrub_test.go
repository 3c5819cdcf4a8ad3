package vault

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	vaultapi "github.com/hashicorp/vault/api"

	canaries "github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
)

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
