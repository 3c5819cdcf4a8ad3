package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/settings"
)

// home makes a home directory with contexts: name → content of its file.
func home(t *testing.T, contexts map[string]string) string {
	t.Helper()
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range contexts {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"c.pem", "k.pem", "x.creds"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

// natsOf returns what the settings have of NATS.
func natsOf(s settings.Settings) map[string]any {
	all := map[string]any{}
	for name, value := range map[string]any{
		"url": s.NATSURL, "creds": s.NATSCreds, "nkey": s.NATSNkey, "ca": s.NATSCA, "cert": s.NATSCert, "key": s.NATSKey, "user": s.NATSUser,
		"password": s.NATSPassword, "token": s.NATSToken, "jwt": s.NATSUserJWT, "seed": s.NATSUserSeed, "domain": s.NATSJSDomain,
		"prefix": s.NATSJSAPIPrefix, "inbox": s.NATSInboxPrefix, "socks": s.NATSSocksProxy,
	} {
		if value != "" {
			all[name] = value
		}
	}
	if s.NATSTLSFirst {
		all["first"] = true
	}
	return all
}

func TestContexts(t *testing.T) {
	t.Parallel()
	at := home(t, map[string]string{
		"files": `{"description":"d","url":"tls://a:4222, tls://b:4222","creds":"~/x.creds","cert":"$CERTS/c.pem","key":"file://` + "$CERTS" + `/k.pem","ca":"~/c.pem","nsc":"",
			"jetstream_domain":"hub","inbox_prefix":"_INBOX.me","tls_first":true,"socks_proxy":"socks5://p:1080","color_scheme":"red","jetstream_event_prefix":"x","token":null}`,
		"user":  `{"url":"nats://127.0.0.1","user":"u","password":"` + secret + `","jetstream_api_prefix":"JS.hub.API"}`,
		"token": "\xef\xbb\xbf" + `{"user":"` + secret + `"}`,
		"jwt":   `{"user_jwt":"e.y.J","user_seed":"` + secret + `"}`,
		"inurl": `{"url":"nats://u:` + secret + `@127.0.0.1:4222"}`,
	})
	file := func(name string) string { return filepath.Join(at, name) }
	const standard = "nats://127.0.0.1:4222"
	for _, tc := range []struct {
		set  []string
		want map[string]any
	}{
		{[]string{"NATS_CONTEXT=files", "CERTS=" + at}, map[string]any{"url": "tls://a:4222,tls://b:4222", "creds": file("x.creds"), "cert": file("c.pem"), "key": file("k.pem"), "ca": file("c.pem"),
			"domain": "hub", "inbox": "_INBOX.me", "first": true, "socks": "socks5://p:1080"}},
		{[]string{"NATS_CONTEXT=user"}, map[string]any{"url": "nats://127.0.0.1", "user": "u", "password": secret, "prefix": "JS.hub.API"}},
		{[]string{"NATS_CONTEXT=" + file(".config/nats/context/user.json"), "NATS_URL=nats://[::1]"}, map[string]any{"url": "nats://[::1]", "user": "u", "password": secret, "prefix": "JS.hub.API"}},
		{[]string{"NATS_CONTEXT=user", "NATS_CREDS=" + file("x.creds"), "NATS_JS_DOMAIN=d"}, map[string]any{"url": "nats://127.0.0.1", "creds": file("x.creds"), "domain": "d"}},
		{[]string{"NATS_CONTEXT=user", "NATS_PASSWORD=other"}, map[string]any{"url": "nats://127.0.0.1", "user": "u", "password": "other", "prefix": "JS.hub.API"}},
		{[]string{"NATS_CONTEXT=user", "NATS_URL=nats://v:p@127.0.0.1"}, map[string]any{"url": "nats://v:p@127.0.0.1", "prefix": "JS.hub.API"}},
		{[]string{"NATS_CONTEXT=inurl", "NATS_TOKEN=" + secret}, map[string]any{"url": standard, "token": secret}},
		{[]string{"NATS_CONTEXT=token"}, map[string]any{"url": standard, "token": secret}},
		{[]string{"NATS_CONTEXT=jwt"}, map[string]any{"url": standard, "jwt": "e.y.J", "seed": secret}},
		{[]string{"NATS_CONTEXT=jwt", "NATS_USER=u", "NATS_PASSWORD=" + secret}, map[string]any{"url": standard, "user": "u", "password": secret}},
		{[]string{"NATS_CONTEXT=\" \""}, map[string]any{"url": standard}},
	} {
		set, err := load(t, append(tc.set, "HOME="+at)...)
		if err != nil {
			t.Errorf("%q: %v", tc.set, err)
			continue
		}
		if diff := cmp.Diff(tc.want, natsOf(set.Settings)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.set, diff)
		}
		leaks(t, set, nil)
	}
	set, err := load(t, "HOME=/nowhere", "XDG_CONFIG_HOME="+filepath.Join(at, ".config"), "NATS_CONTEXT=user")
	if err != nil || set.Settings.NATSUser != "u" || shown(set, "NATS_USER") != (settings.Value{Name: "NATS_USER", Value: "u", Origin: settings.FromContext}) {
		t.Errorf("by XDG_CONFIG_HOME: %v, %+v", err, shown(set, "NATS_USER"))
	}
}

func TestContextsThatCanNotBeUsed(t *testing.T) {
	t.Parallel()
	at := home(t, map[string]string{
		"nsc": `{"nsc":"nsc://op/acc/user"}`, "store": `{"windows_cert_store":"user","windows_cert_match":"x"}`, "op": `{"creds":"op://vault/` + secret + `"}`,
		"broken": `{"password":"` + secret, "list": `["` + secret + `"]`, "odd": `{"url":["` + secret + `"]}`, "gone": `{"ca":"/nowhere/ca.pem"}`, "two": `{"user":"u","password":"` + secret + `","token":"` + secret + `"}`,
	})
	for _, tc := range []struct{ set, name, want string }{
		{"NATS_CONTEXT=none", "NATS_CONTEXT", `"none" is no context in ` + at + "/.config/nats/context; there are broken, gone,"},
		{"NATS_CONTEXT=../x", "NATS_CONTEXT", "is no name of a context"},
		{"NATS_CONTEXT=/nowhere/x.json", "NATS_CONTEXT", "no such file"},
		{"NATS_CONTEXT=nsc", "NATS_CONTEXT", "nsc generate creds"},
		{"NATS_CONTEXT=store", "NATS_CONTEXT", "its field windows_cert_store can't be used"},
		{"NATS_CONTEXT=op", "NATS_CONTEXT", "nothing by op:; want the path of a file"},
		{"NATS_CONTEXT=broken", "NATS_CONTEXT", "no JSON object"},
		{"NATS_CONTEXT=list", "NATS_CONTEXT", "no JSON object"},
		{"NATS_CONTEXT=odd", "NATS_CONTEXT", "its field url is neither"},
		{"NATS_CONTEXT=gone", "NATS_CA", "from NATS_CONTEXT its file can't be read"},
		{"NATS_CONTEXT=two", "NATS_TOKEN", "set beside NATS_USER"},
	} {
		set, err := load(t, tc.set, "HOME="+at)
		if err == nil || len(err.Problems) != 1 || err.Problems[0].Name != tc.name || !strings.Contains(err.Problems[0].Text, tc.want) {
			t.Errorf("%s: %v, want %s: …%s", tc.set, err, tc.name, tc.want)
		}
		if err != nil {
			leaks(t, set, err)
		}
	}
	if _, err := load(t, "NATS_CONTEXT=nsc"); err == nil || !strings.Contains(err.Error(), "neither HOME nor XDG_CONFIG_HOME") {
		t.Errorf("without a home: %v", err)
	}
	set, err := load(t, "HOME="+home(t, map[string]string{"new": `{"shiny":"` + secret + `"}`}), "NATS_CONTEXT=new")
	if err != nil || len(set.Warnings) != 1 || !strings.Contains(set.Warnings[0], `"shiny" of NATS_CONTEXT's file is not read`) {
		t.Errorf("a field that nobody knows: %v, %q", err, set.Warnings)
	}
}
