package vault

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/flow-worker/flow-worker/internal/vault/vaulttest"
)

// lying is a Vault whose answers about the token itself are changed on their way. It is one for a time.
type lying struct {
	*vaulttest.Server
	lookup func(data map[string]any) // of lookup-self; nil leaves it
	renew  func(auth map[string]any) // of renew-self; nil leaves it
}

func (l lying) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	change, part := l.lookup, "data"
	if strings.HasSuffix(r.URL.Path, "renew-self") {
		change, part = l.renew, "auth"
	}
	if change == nil || !strings.HasSuffix(r.URL.Path, "-self") {
		l.Server.ServeHTTP(w, r)
		return
	}
	resp, err := inMemory{l.Server}.RoundTrip(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var answer map[string]any
	_ = json.Unmarshal(body, &answer)
	if fields, ok := answer[part].(map[string]any); ok {
		change(fields)
	}
	w.WriteHeader(resp.StatusCode)
	_ = json.NewEncoder(w).Encode(answer)
}

// What is said of a given token is a hint: where reads work, the worker does, for as long as they do.
func TestWhatIsSaidOfAGivenTokenIsAHint(t *testing.T) {
	t.Parallel()
	set := func(kv ...any) func(map[string]any) {
		return func(m map[string]any) {
			for i := 0; i < len(kv); i += 2 {
				m[fmt.Sprint(kv[i])] = kv[i+1]
			}
		}
	}
	past := "2020-01-01T00:00:00Z"
	for name, tc := range map[string]struct {
		lookup, renew func(map[string]any)
		denied        string // a path that the policy leaves out
		outage        vaulttest.Outage
		ttl           float64 // what the gauge tells after the first read
	}{
		"ttl 0":                     {lookup: set("ttl", 0, "expire_time", past), ttl: 3600},
		"a negative ttl":            {lookup: set("ttl", -5, "expire_time", past), ttl: 3600},
		"no ttl":                    {lookup: func(m map[string]any) { delete(m, "ttl") }, ttl: 3600},
		"nothing":                   {lookup: func(m map[string]any) { clear(m) }, ttl: 3600},
		"a ttl as text":             {lookup: set("ttl", "1800"), ttl: 3600},
		"a ttl with a unit":         {lookup: set("ttl", "30m"), ttl: 3600},
		"a ttl with a fraction":     {lookup: set("ttl", 1800.5), ttl: 3600},
		"a ttl beyond all bounds":   {lookup: set("ttl", 1e300), ttl: 3600},
		"a ttl that is none":        {lookup: set("ttl", []string{"x"}), ttl: 3600},
		"not renewable, though":     {lookup: set("renewable", false), ttl: 3600},
		"renewable is a text":       {lookup: set("renewable", "true"), ttl: 3600},
		"renewed for 0":             {renew: set("lease_duration", 0), ttl: math.NaN()},
		"renewed for less":          {renew: set("lease_duration", -1), ttl: math.NaN()},
		"all of it":                 {lookup: set("ttl", 0, "expire_time", past), renew: set("lease_duration", 0, "renewable", false), ttl: math.NaN()},
		"no right to look up":       {denied: "auth/token/lookup-self", ttl: 3600},
		"no right to renew":         {denied: "auth/token/renew-self", ttl: 3600},
		"no right to either":        {denied: "auth/token/*", ttl: math.NaN()},
		"a proxy without the route": {outage: vaulttest.Outage{Status: 404, Body: `{"message":"no Route matched with those values"}`}, ttl: math.NaN()},
		"a proxy forbids":           {outage: vaulttest.Outage{Status: 403, Body: "<html>"}, ttl: math.NaN()},
		"404":                       {outage: vaulttest.Outage{Status: 404}, ttl: math.NaN()},
		"405":                       {outage: vaulttest.Outage{Status: 405}, ttl: math.NaN()},
		"501":                       {outage: vaulttest.Outage{Status: 501}, ttl: math.NaN()},
		"503":                       {outage: vaulttest.Outage{Status: 503}, ttl: math.NaN()},
		"no answer":                 {outage: vaulttest.Outage{Hang: true}, ttl: math.NaN()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := serverOf(vaulttest.Config{})
				token := server.NewToken(vaulttest.Role{TTL: time.Hour, MaxTTL: 1000 * time.Hour})
				if tc.denied != "" {
					server.Deny(tc.denied)
				}
				tc.outage.Path = "/v1/auth/token/"
				server.SetOutage(tc.outage)
				h := start(t, server, Config{Token: provision.NewSensitive(token), transport: inMemory{lying{server, tc.lookup, tc.renew}}})
				reads := func() {
					t.Helper()
					got, err := h.resolve(true)
					checkValue(t, got, err, "dapi-"+canary)
					if err := h.client.Ready(); err != nil {
						t.Errorf("reads work, but it is not ready: %v", err)
					}
				}
				reads()
				synctest.Wait()
				if ttl := h.client.session.ttl(); ttl != tc.ttl && !(math.IsNaN(ttl) && math.IsNaN(tc.ttl)) {
					t.Errorf("the token is said to last %v s, want %v", ttl, tc.ttl)
				}
				<-time.After(59 * time.Minute)
				reads()
				if n := server.Count("/v1/auth/token/"); n > 150 {
					t.Errorf("%d calls about the token in an hour", n)
				}
				server.SetOutage(vaulttest.Outage{})
				server.Permit()
				server.Revoke(token)
				_, err := h.resolve(true)
				checkProblem(t, err, provision.SecretDenied, "invalid token")
				checkProblem(t, h.client.Ready(), provision.SecretDenied, "invalid token")
				if ttl := h.client.session.ttl(); ttl != 0 {
					t.Errorf("a token that Vault does not know is said to last %v s", ttl)
				}
			})
		})
	}
}

// Somebody else may renew a given token: it is used past the end that was told of it.
func TestGivenTokenThatSomebodyElseRenews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		token := server.NewToken(vaulttest.Role{TTL: 100 * time.Hour})
		short := lying{server, func(m map[string]any) { m["ttl"] = 60 }, func(m map[string]any) { m["lease_duration"], m["renewable"] = 60, false }}
		h := start(t, server, Config{Token: provision.NewSensitive(token), transport: inMemory{short}})
		for range 60 {
			<-time.After(time.Minute)
			got, err := h.resolve(true)
			checkValue(t, got, err, "dapi-"+canary)
			if err := h.client.Ready(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A refused look-up is taken back by a read that works, as with a server that lags.
func TestAReadTakesBackWhatALookUpSaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(vaulttest.Config{})
		server.SetOutage(vaulttest.Outage{Status: 403, Body: `{"errors":["permission denied","invalid token"]}`, Path: "/v1/auth/"})
		h := start(t, server, Config{})
		synctest.Wait()
		checkProblem(t, h.client.Ready(), provision.SecretDenied, "VAULT_TOKEN", "invalid token")
		got, err := h.resolve(false)
		checkValue(t, got, err, "dapi-"+canary)
		if err := h.client.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// replace puts content into a file as those who keep tokens fresh do.
var replace = map[string]func(t *testing.T, path, content string){
	"written over": func(t *testing.T, path, content string) { rewriteFile(t, path, content) },
	"renamed": func(t *testing.T, path, content string) {
		next := writeFile(t, content)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	},
	"a link to a directory that is swapped": func(t *testing.T, path, content string) { // as of Kubernetes' volumes
		link := filepath.Dir(path) + "-data"
		if _, err := os.Lstat(link); err != nil { // the first time the path becomes a link, too
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(link, "token"), path); err != nil {
				t.Fatal(err)
			}
		}
		dir, next := t.TempDir(), link+"-next"
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, link); err != nil {
			t.Fatal(err)
		}
	},
	"gone and empty for a while": func(t *testing.T, path, content string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * lookAgain)
		rewriteFile(t, path, "")
		<-time.After(3 * lookAgain)
		rewriteFile(t, path, content[:len(content)/2])
		<-time.After(lookAgain)
		rewriteFile(t, path, content)
	},
}

// A token file is read again when it changes, however it is replaced.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	for name, put := range replace {
		for _, around := range []string{"%s", "%s\n", "\ufeff%s\r\n"} {
			t.Run(fmt.Sprintf("%s as %q", name, around), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := serverOf(vaulttest.Config{})
					role := vaulttest.Role{TTL: 2 * time.Hour, MaxTTL: 2 * time.Hour}
					token := server.NewToken(role)
					path := writeFile(t, fmt.Sprintf(around, token))
					h := start(t, server, Config{TokenFile: path})
					for range 5 {
						got, err := h.resolve(true)
						checkValue(t, got, err, "dapi-"+canary)
						<-time.After(time.Hour)
						old := token
						token = server.NewToken(role)
						put(t, path, fmt.Sprintf(around, token))
						<-time.After(4 * lookAgain)
						server.Revoke(old)
						if err := h.client.Ready(); err != nil {
							t.Fatal(err)
						}
					}
					if n := h.count(opRead, "denied"); n != 0 {
						t.Errorf("%d reads with a token of before", n)
					}
				})
			})
		}
	}
}

// A token file that can't be used yet is waited for; the error names it and what is wrong, not what is in it.
func TestTokenFileThatIsNoneYet(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ content, part string }{
		"empty":     {"\n", "holds 1 bytes"},
		"wrapped":   {`{"token":"hvs.` + canary + `","accessor":"a","ttl":300,"wrapped_accessor":"b"}`, "wrap_ttl"},
		"two lines": {"hvs." + canary + "\nhvs." + canary, "want the token alone"},
		"UTF-16":    {"\xff\xfeh\x00v\x00s\x00", "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := serverOf(vaulttest.Config{})
				path := writeFile(t, tc.content)
				h := start(t, server, Config{TokenFile: path})
				_, err := h.resolve(false)
				checkProblem(t, err, provision.SecretUnavailable, "VAULT_TOKEN_FILE", path, tc.part)
				checkProblem(t, h.client.Ready(), provision.SecretUnavailable, tc.part)
				rewriteFile(t, path, server.Token())
				<-time.After(4 * lookAgain)
				got, err := h.resolve(false)
				checkValue(t, got, err, "dapi-"+canary)
			})
		})
	}
}

// With an agent that adds the token the worker sends none, and asks for none.
func TestNoToken(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "of-another-"+canary)
	server := serverOf(vaulttest.Config{})
	agent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sent := r.Header.Get("X-Vault-Token"); sent != "" || strings.HasPrefix(r.URL.Path, "/v1/auth/") {
			t.Errorf("%s was asked with the token %q", r.URL.Path, sent)
		}
		r.Header.Set("X-Vault-Token", server.Token())
		server.ServeHTTP(w, r)
	})
	h := &harness{t: t, server: server, reg: prometheus.NewPedanticRegistry(), witness: &witness{}}
	h.run(Config{Auth: AuthNone, Address: "http://127.0.0.1:8100", transport: inMemory{agent}})
	got, err := h.resolve(false)
	checkValue(t, got, err, "dapi-"+canary)
	if err := h.client.Ready(); err != nil || !math.IsNaN(h.client.session.ttl()) {
		t.Errorf("%v, the token is said to last %v s", err, h.client.session.ttl())
	}
	if n := h.count(opLogin, "ok"); n != 0 {
		t.Errorf("%d logins, without any", n)
	}
	server.SetOutage(vaulttest.Outage{Status: 403, Body: `{"errors":["permission denied"]}`, Path: "/v1/secret/"})
	_, err = h.resolve(true)
	checkProblem(t, err, provision.SecretDenied, "permission denied")
}
