package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// identity lists the variables of which one is enough to say who the worker is. If one of them is set, a context's
// are left out together.
var identity = []string{natsCreds, natsNkey, natsUser, natsPassword, natsToken, natsUserJWT, natsUserSeed}

// contextFields are the fields of a context of the nats command: name → variable that it stands for, empty for one that
// means nothing to a worker. Paths may begin with "~" or have $VARIABLES in them, as there.
var contextFields = map[string]string{
	"url": natsURL, "creds": natsCreds, "nkey": natsNkey, "user": natsUser, "password": natsPassword, "token": natsToken,
	"user_jwt": natsUserJWT, "user_seed": natsUserSeed, "ca": "NATS_CA", "cert": "NATS_CERT", "key": "NATS_KEY", "tls_first": "NATS_TLS_FIRST",
	"jetstream_domain": natsJSDomain, "jetstream_api_prefix": natsJSAPIPrefix, "inbox_prefix": "NATS_INBOX_PREFIX", "socks_proxy": "NATS_SOCKS_PROXY",
	"name": "", "description": "", "color_scheme": "", "jetstream_event_prefix": "",
}

// contextPaths are the fields whose values are paths of files.
var contextPaths = []string{"creds", "nkey", "ca", "cert", "key"}

// refusedFields are those of which a worker can't do what they ask: name → what to do instead.
var refusedFields = map[string]string{
	"nsc":                    `the worker does not run "nsc"; write the credentials with "nsc generate creds" and name the file in creds or NATS_CREDS`,
	"windows_cert_store":     "the worker knows no certificate store; name files in cert and key",
	"windows_cert_match":     "",
	"windows_cert_match_by":  "",
	"windows_ca_certs_match": "",
}

var contextName = regexp.MustCompile(`^[^/\\\s]{1,200}$`)

// readContext returns what the context that src names has: variable → value, without what must not be mixed with what
// src sets itself.
func (set *Set) readContext(src Source, env map[string]string, groups []Group, bad *Invalid) map[string]string {
	name, _ := variable{name: natsContext, group: NATS}.lookup(src, env, nil, groups)
	if name == "" {
		return nil
	}
	path, err := contextFile(name, env)
	if err != nil {
		bad.add(natsContext, err.Error())
		return nil
	}
	fields, err := contextOf(path)
	if err != nil {
		bad.add(natsContext, err.Error())
		return nil
	}
	values := map[string]string{}
	for field, text := range fields {
		if text == "" || text == "false" {
			continue
		}
		if why := refusedFields[field]; why != "" {
			bad.add(natsContext, fmt.Sprintf("its field %s can't be used: %s", field, why))
			continue
		}
		if slices.Contains(contextPaths, field) {
			if text, err = expand(text, env); err != nil {
				bad.add(natsContext, fmt.Sprintf("its field %s can't be used: %v", field, err))
				continue
			}
		}
		variable, known := contextFields[field]
		if _, refused := refusedFields[field]; !known && !refused {
			set.Warnings = append(set.Warnings, fmt.Sprintf("the field %.40q of NATS_CONTEXT's file is not read", field))
		}
		if variable != "" {
			values[variable] = text
		}
	}
	slices.Sort(set.Warnings)
	return unmixed(values, src, env)
}

// unmixed takes from a context's values what would go with something that was set beside it.
func unmixed(values map[string]string, src Source, env map[string]string) map[string]string {
	set := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			given, flag := src.Flags[name]
			return flag && given != "" || !flag && clean(name, env[name]) != ""
		})
	}
	without := func(names ...string) {
		for _, name := range names {
			delete(values, name)
		}
	}
	urls, _ := variable{name: natsURL, group: NATS}.lookup(src, env, nil, []Group{NATS})
	own, err := url.Parse(urls)
	inURL := err == nil && own.User != nil
	if set(natsCreds, natsNkey, natsUser, natsToken, natsUserJWT) {
		values[natsURL] = withoutUsers(values[natsURL])
		without(identity...)
	} else if inURL {
		without(identity...)
	}
	if set("NATS_CERT", "NATS_KEY") {
		without("NATS_CERT", "NATS_KEY")
	}
	if set(natsJSDomain, natsJSAPIPrefix) {
		without(natsJSDomain, natsJSAPIPrefix)
	}
	return values
}

// withoutUsers takes the user info out of a list of URLs.
func withoutUsers(list string) string {
	urls := splitList(list)
	for i, one := range urls {
		if u, err := url.Parse(one); err == nil && u.User != nil {
			u.User = nil
			urls[i] = u.String()
		}
	}
	return strings.Join(urls, ",")
}

// contextFile returns the file of a context by its name, or by its path, as the nats command does.
func contextFile(name string, env map[string]string) (string, error) {
	if strings.HasSuffix(name, ".json") && filepath.IsAbs(name) {
		return name, nil
	}
	if !contextName.MatchString(name) {
		return "", errors.New(`is no name of a context; want a name that "nats context ls" shows, or the whole path of a file that ends with .json`)
	}
	dir := env["XDG_CONFIG_HOME"]
	if dir == "" {
		if env["HOME"] == "" {
			return "", errors.New("can't be looked for, because neither HOME nor XDG_CONFIG_HOME is set; set one, or let it name the whole path of the context's file")
		}
		dir = filepath.Join(env["HOME"], ".config")
	}
	dir = filepath.Join(dir, "nats", "context")
	path := filepath.Join(dir, name+".json")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s is no context in %s; %s", shape(name), dir, knownContexts(dir))
	}
	return path, nil
}

func knownContexts(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	if len(files) == 0 {
		return `there are none: make one with "nats context add"`
	}
	names := make([]string, 0, len(files))
	for _, f := range files[:min(len(files), 10)] {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	return "there are " + strings.Join(names, ", ")
}

// contextOf reads a context's file: field → value as a text. Its errors quote no values.
func contextOf(path string) (map[string]string, error) {
	content, err := contentOf(path)
	if err != nil {
		return nil, err
	}
	var raw map[string]any
	if err := json.Unmarshal(bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")), &raw); err != nil {
		return nil, errors.New(`its file is no JSON object; want one as "nats context add" writes it`)
	}
	fields := map[string]string{}
	for name, value := range raw {
		switch v := value.(type) {
		case nil:
		case string:
			fields[name] = strings.TrimSpace(v)
		case bool:
			fields[name] = fmt.Sprint(v)
		default:
			if contextFields[name] != "" {
				return nil, fmt.Errorf("its field %s is neither a string nor a boolean", name)
			}
		}
	}
	return fields, nil
}

var uriScheme = regexp.MustCompile(`^([a-z]{2,10}):`)

// expand returns the path that a context's field means.
func expand(text string, env map[string]string) (string, error) {
	if m := uriScheme.FindStringSubmatch(text); m != nil && m[1] != "file" {
		return "", fmt.Errorf("the worker reads files only, nothing by %s:; want the path of a file", m[1])
	}
	text = strings.TrimPrefix(strings.TrimPrefix(text, "file://"), "file:")
	text = os.Expand(text, func(name string) string { return env[name] })
	if rest, ok := strings.CutPrefix(text, "~"); ok && (rest == "" || rest[0] == '/') {
		text = env["HOME"] + rest
	}
	return text, nil
}
