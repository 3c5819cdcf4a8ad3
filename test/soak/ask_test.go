//go:build soak

package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/flow-worker/flow-worker/internal/event"
	"github.com/flow-worker/flow-worker/internal/flow/flowtest"
	"github.com/flow-worker/flow-worker/internal/provision"
)

// ask is one request, with what is to become of it.
type ask struct {
	key    provision.Key
	want   string // provision.OutcomeCreated, or the reason of its failure
	reused bool   // its id is also used for other data
	vague  bool   // its identity can't be read from it, so there is no record of it
	mails  []mail // the messages that carry it, at least one
}

// mail is one message.
type mail struct {
	id   string // Nats-Msg-Id
	body []byte
}

// refusedPrefix begins the names of connections that the Flow Service refuses for good.
const refusedPrefix = "refused "

// askMix says what the requests are like, in percent; what is left is valid and sent once.
type askMix struct{ twice, reused, broken, plaintext, unknownField, noSecret, noTenant, refused int }

// mixed is a bit of everything.
var mixed = askMix{twice: 8, reused: 2, broken: 1, plaintext: 2, unknownField: 2, noSecret: 1, noTenant: 1, refused: 2}

const tenants = 12

// staticTenant has a token of its own instead of a client at IMS.
var staticTenant = tenantName(tenants - 1)

func tenantName(i int) string { return fmt.Sprintf("tenant-%02d", i+1) }

// newAsks makes n requests of all tenants.
func newAsks(rng *rand.Rand, n int, mix askMix) []*ask {
	list := make([]*ask, 0, n)
	for i := range n {
		list = append(list, newAsk(rng, i, mix))
	}
	return list
}

func newAsk(rng *rand.Rand, i int, mix askMix) *ask {
	a := &ask{
		key:  provision.Key{Tenant: tenantName(rng.IntN(tenants)), Source: "/soak", ID: fmt.Sprintf("soak-%05d", i)},
		want: provision.OutcomeCreated,
	}
	d := a.data()
	roll := rng.IntN(100)
	is := func(percent int) bool {
		roll -= percent
		return roll < 0 && roll >= -percent
	}
	switch {
	case is(mix.twice):
		a.add(d)
	case is(mix.reused):
		a.reused = true
		other := a.data()
		other["description"] = "other data"
		a.add(other)
	case is(mix.broken):
		a.vague, a.want = true, string(provision.ReasonInvalidRequest)
		a.key.Source = "nats"
		a.mails = []mail{{a.key.ID, []byte(`{"sandbox": "prod", `)}}
		return a
	case is(mix.plaintext):
		a.want = string(provision.ReasonPlaintextSecret)
		params(d)["accessToken"] = "dapi-soak-plaintext"
	case is(mix.unknownField):
		a.want = string(provision.ReasonInvalidRequest)
		d["labels"] = "none of the schema"
	case is(mix.noSecret):
		a.want = string(provision.ReasonSecretNotFound)
		params(d)["accessToken"] = "vault:databricks/nowhere#accessToken"
	case is(mix.noTenant):
		a.want = string(provision.ReasonTenantUnknown)
		a.key.Tenant = "tenant-without-secrets"
	case is(mix.refused):
		a.want = string(provision.ReasonFlowRejected)
		d["name"] = refusedPrefix + a.key.ID
	}
	a.add(d)
	return a
}

// data returns valid data. Names are shared by a few requests: they are not unique upstream.
func (a *ask) data() map[string]any {
	return map[string]any{
		"sandbox": "prod", "name": "soak " + a.key.ID[:len(a.key.ID)-1], "description": "made by the soak test",
		"auth": map[string]any{"specName": flowtest.DatabricksAuthSpec, "params": map[string]any{
			"domain": "https://adb-1234567890123456.7.azuredatabricks.net", "clusterId": "0601-182128-dcbte59m",
			"accessToken": "vault:databricks/main#accessToken", "database": "soak",
		}},
		"connectionSpec": map[string]any{"id": flowtest.DatabricksSpecID, "version": flowtest.DatabricksSpecVersion},
	}
}

func params(data map[string]any) map[string]any {
	return data["auth"].(map[string]any)["params"].(map[string]any)
}

// add adds a message with these data.
func (a *ask) add(data map[string]any) {
	body, err := json.Marshal(data)
	if err != nil {
		panic(err) // data is made here
	}
	m, err := event.EncodeRequest(event.Draft{Body: body, ID: a.key.ID, Source: a.key.Source})
	if err != nil {
		panic(err)
	}
	a.mails = append(a.mails, mail{fmt.Sprintf("%s-%s-%d", a.key.Tenant, a.key.ID, len(a.mails)), m.Body})
}

// outcomeOf returns what the ask's want is compared with.
func outcomeOf(r provision.Result) string {
	if r.Error != nil {
		return string(r.Error.Reason)
	}
	return r.Outcome
}
