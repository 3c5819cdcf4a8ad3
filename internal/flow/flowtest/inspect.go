package flowtest

import (
	"regexp"
	"slices"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Stored is a connection as the emulator keeps it.
type Stored struct {
	ID            string    `json:"id"`
	Etag          string    `json:"etag"`
	OrgID         string    `json:"orgId"`
	Sandbox       string    `json:"sandbox"`
	Name          string    `json:"name"`
	Description   string    `json:"description"`
	SpecID        string    `json:"specId"`
	SpecVersion   string    `json:"specVersion"`
	AuthSpec      string    `json:"authSpec"`
	State         string    `json:"state"`
	CreatedAt     time.Time `json:"createdAt"`
	UpdatedAt     time.Time `json:"updatedAt"`
	CreatedClient string    `json:"createdClient"`
	// Params are the params with "xxxx" for every secret.
	Params map[string]any `json:"params"`
	// Secrets are the true values of those, by param.
	Secrets map[string]provision.Sensitive `json:"-"`
	// AccessToken is Secrets["accessToken"].
	AccessToken provision.Sensitive `json:"-"`
}

// Connections returns all connections of all organizations and sandboxes, listed or not, oldest first.
func (e *Emulator) Connections() []Stored {
	now := e.cfg.Clock()
	all := e.store.everything()
	out := make([]Stored, 0, len(all))
	for _, c := range all {
		out = append(out, c.stored(now))
	}
	return out
}

func (c *conn) stored(now time.Time) Stored {
	s := Stored{
		ID: c.id, Etag: c.etag, OrgID: c.in.org, Sandbox: c.in.sandbox, Name: c.name, Description: c.description,
		SpecID: c.specID, SpecVersion: c.specVersion, AuthSpec: c.specName, State: c.state(now),
		CreatedAt: c.created, UpdatedAt: c.updated, CreatedClient: c.creator,
		Params: c.maskedParams(), Secrets: map[string]provision.Sensitive{},
	}
	for _, name := range c.secret {
		if text, ok := c.params[name].(string); ok {
			s.Secrets[name] = provision.NewSensitive(text)
		}
	}
	s.AccessToken = s.Secrets["accessToken"]
	return s
}

var markPattern = regexp.MustCompile(regexp.QuoteMeta(provision.MarkPrefix) + `[0-9a-f]+\]`)

// Marks returns for every flow-worker mark, such as "[flow-worker 0a1b…]", the ids of the connections
// whose description holds it, oldest first. More than one id means duplicates.
func (e *Emulator) Marks() map[string][]string {
	out := map[string][]string{}
	for _, c := range e.store.everything() {
		marks := markPattern.FindAllString(c.description, -1)
		slices.Sort(marks)
		for _, mark := range slices.Compact(marks) {
			out[mark] = append(out[mark], c.id)
		}
	}
	return out
}
