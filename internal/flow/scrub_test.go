package flow

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/scrub"
)

func TestMessageIsBounded(t *testing.T) {
	t.Parallel()
	got := scrubber{}.message(strings.Repeat("ä", 3000))
	if n := len([]rune(got)); n != maxMessage || !strings.HasSuffix(got, "…") {
		t.Errorf("%d characters, want %d", n, maxMessage)
	}
}

// TestAnAccountsSecretsAreInPlay looks for each secret of an account in what is told of a call for it.
func TestAnAccountsSecretsAreInPlay(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"clientSecret": canary.New(), "accessToken": canary.New(), "apiKey": canary.Plain(),
		"clientId": canary.Plain(), "more": canary.New()}
	hunt := canary.NewHunt(secrets)
	s := scrubberOf(provision.Credentials{
		ClientSecret: provision.NewSensitive(secrets["clientSecret"]), AccessToken: provision.NewSensitive(secrets["accessToken"]),
		APIKey: secrets["apiKey"], ClientID: secrets["clientId"],
	}, provision.NewSensitive(secrets["more"]))
	for name, secret := range secrets {
		if hunt.Search("planted", "said "+secret) != 1 {
			t.Fatalf("the hunt for %s finds nothing", name)
		}
		if n := hunt.Search("told", s.message("said "+secret)+s.id("a-"+secret, 500)+etag("a-"+secret, s)); n != 0 {
			t.Errorf("%s: %+v", name, hunt.Hits())
		}
	}
	short := scrubberOf(provision.Credentials{APIKey: "api-key", ClientID: "client"})
	if got := short.message("wrong api-key for client"); got != "wrong api-key for client" {
		t.Errorf("got %q", got)
	}
}

// TestNothingOfAForeignBodyIsTold gives answers that are none of the service's.
func TestNothingOfAForeignBodyIsTold(t *testing.T) {
	t.Parallel()
	secret := canary.Plain() // of nobody whom the scrubber knows
	for _, body := range []string{
		secret, "<html><title>" + secret + "</title>", `{"message":"` + secret, `"` + secret + `"`, `["` + secret + `"]`,
		`{"accessToken":"` + secret + `"}`, `{"message":{"text":"` + secret + `"}}`, "\x1f\x8b" + secret, `{"message":"a"}` + secret,
		`{"request":{"auth":{"params":{"accessToken":"` + secret + `"}}},"message":"m"}`, `{"report":{"message":"` + secret + `"}}`,
	} {
		for _, status := range []int{200, 302, 400, 401, 403, 500} {
			err := judge(answer{status: status, body: []byte(body)}, scrubber{})
			if told := fmt.Sprintf("%v %+v", err, *err); strings.Contains(told, secret) {
				t.Errorf("HTTP %d, %s: %s", status, body, told)
			}
		}
	}
}

func TestNetworkErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	secret := canary.Plain()
	for in, want := range map[error]string{
		fmt.Errorf("net/http: malformed HTTP response %q", secret):           "net/http: malformed HTTP response (the answer isn't quoted here)",
		fmt.Errorf("malformed MIME header line: X: %s", secret):              "(the answer isn't quoted here)",
		fmt.Errorf("oauth2: cannot parse json: invalid character '%s'", "x"): "oauth2: cannot parse json: (the answer isn't quoted here)",
		&net.OpError{Op: "dial", Net: "tcp", Err: errors.New(`lookup "x"`)}:  `dial tcp: lookup "x"`,
		&net.DNSError{Err: "no such host", Name: "h"}:                        "lookup h: no such host",
		errTooLong: "the answer is too long",
	} {
		if got := newNetError(in, scrubber{}).Error(); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

// FuzzMessage hides a secret between two texts: what is told is short, on one line, and without it.
func FuzzMessage(f *testing.F) {
	f.Add("a", "b", "0123456789abcdef")
	f.Add("%", "25", "%25%25%25%25%25%25")
	f.Add("\xcc", "0", "\xab00000000000")
	f.Add("0", "\x89", "0 0 0 0 0 00")
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		seen := strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' {
				return -1
			}
			return r
		}, secret)
		if len(seen) < scrub.Part || len(secret) > 200 || strings.Contains(provision.Redacted, secret) || !utf8.ValidString(secret) {
			t.Skip() // secrets are strings of JSON or of printable ASCII
		}
		got := newScrubber(provision.NewSensitive(secret)).message(before + secret + after)
		checkTold(t, problem{message: strings.ReplaceAll(got, provision.Redacted, "")}, secret)
	})
}
