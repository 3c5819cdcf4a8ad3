package app

import (
	"encoding/json"
	"strings"

	"github.com/flow-worker/flow-worker/internal/canary"
	"github.com/flow-worker/flow-worker/internal/event"
)

// misplaced are all places of a request that a token can be typed into by mistake, as paths of its data and
// as attributes, by what a result says of it.
var misplaced = map[string]string{
	"/data/sandbox": "sandbox", "/data/name": "name", "/data/description": "description", "/data/ifExists": "ifExists", "/data/auth/specName": "auth.specName",
	"/data/auth/params/domain": "auth.params.domain", "/data/auth/params/clusterId": "auth.params.clusterId",
	"/data/auth/params/database": "auth.params.database", "/data/auth/params/catalog": "auth.params.catalog",
	"/data/connectionSpec/id": "connectionSpec.id", "/data/connectionSpec/version": "connectionSpec.version",
	"/id": "", "/source": "", "/subject": "", "/type": "", "/time": "", "/expirytime": "", "/dataschema": "", "/datacontenttype": "",
}

// unread are attributes that cost no request anything. Each is sent with a request that fails for another reason, so
// that there is a dead letter to search.
var unread = map[string]bool{"/subject": true, "/time": true, "/dataschema": true}

// addMisplaced makes a canary for each of them, in the shape of a token of Adobe's.
func (w *leakWorld) addMisplaced() {
	for at := range misplaced {
		w.canaries["token at "+at] = "p8e-" + canary.Plain()
	}
	w.canaries["token as message id"] = "p8e-" + canary.Plain()
	w.canaries["token as name of a field"] = "p8e-" + canary.Plain()
	w.canaries["token in a reference"] = "p8e-" + canary.Plain()
}

// sendMisplaced sends a request with a token in each of the places, alone and in a sentence, in each of the
// forms that a request can have.
func (w *leakWorld) sendMisplaced() {
	w.t.Helper()
	for at, path := range misplaced {
		for n, around := range []string{"", " by mistake"} {
			id, token := strings.ReplaceAll(at, "/", ".")+around, w.canaries["token at "+at]+around
			if path == "" {
				w.sendAttribute(at[1:], id, token)
				continue
			}
			data := leakField(w, path, token)
			w.send("acme", id, data)
			w.publish("acme", data, "Nats-Msg-Id", id+" bare")
			w.publish("acme", data, "ce-specversion", "1.0", "ce-id", id+" binary", "ce-source", "/leaks", "ce-type", event.TypeCreate, "ce-subject", string(rune('a'+n)))
		}
	}
	w.publish("acme", leakData("message id", goodRef), "Nats-Msg-Id", w.canaries["token as message id"])
	w.send("acme", "field", leakData("field", goodRef, `,`, quote(w.canaries["token as name of a field"]), `:1`))
	w.send("acme", "reference", leakData("reference", "vault:dbx/"+w.canaries["token in a reference"]+"#accessToken"))
}

// sendAttribute sends a request with a token as an attribute, structured and binary.
func (w *leakWorld) sendAttribute(name, id, token string) {
	w.t.Helper()
	attrs := map[string]string{"specversion": "1.0", "id": id, "source": "/leaks", "type": event.TypeCreate}
	attrs[name] = token
	data := leakData("attribute", goodRef)
	if unread["/"+name] {
		data = leakData("attribute", goodRef, `,"unread":1`)
	}
	body, headers := map[string]any{"data": json.RawMessage(data)}, []string{}
	for key, value := range attrs {
		body[key] = value
		headers = append(headers, "ce-"+key, strings.ReplaceAll(value, " ", "%20"))
	}
	structured, err := json.Marshal(body)
	check(w.t, err)
	w.publish("acme", string(structured), "Content-Type", event.ContentType)
	w.publish("acme", data, headers...)
}

// leakField returns the data of a request with another value at a path.
func leakField(w *leakWorld, path, value string) string {
	w.t.Helper()
	var data map[string]any
	check(w.t, json.Unmarshal([]byte(leakData("misplaced", goodRef)), &data))
	at, names := data, strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		at = at[name].(map[string]any)
	}
	at[names[len(names)-1]] = value
	text, err := json.Marshal(data)
	check(w.t, err)
	return string(text)
}

// checkMisplaced wants a result for each of the places that says so.
func (w *leakWorld) checkMisplaced() {
	w.t.Helper()
	results := w.overheard("results")
	for at := range misplaced {
		if !unread[at] && !strings.Contains(results, at+": holds what looks like a token") {
			w.t.Errorf("no result says that there was a token at %s", at)
		}
	}
	for _, text := range []string{"header Nats-Msg-Id: holds what looks like a token", "the reference itself holds what looks like a token", "/data/[redacted]: unknown field", "/data/unread: unknown field"} {
		if !strings.Contains(results, text) {
			w.t.Errorf("no result says %q", text)
		}
	}
}
