package event

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flow-worker/flow-worker/internal/provision"
)

func TestUnreadIsNamedByTheStandIns(t *testing.T) {
	t.Parallel()
	why := provision.Fail(provision.ReasonInternal, "a bug")
	meta := Meta{Seq: 7, Timestamp: entered, Delivered: 3}
	for name, c := range map[string]struct {
		headers map[string][]string
		id      string
	}{
		"no header":         {nil, "seq-1795316400000000123-7"},
		"message id":        {head("nats-msg-id", "m-1"), "m-1"},
		"its own is unread": {head("ce-id", "own", "ce-source", "/own", "Flow-Worker-Retry", "2"), "seq-1795316400000000123-7"},
		"unusable":          {head("Nats-Msg-Id", "a\x01"), "seq-1795316400000000123-7"},
	} {
		sum := sha256.Sum256([]byte(goodData))
		want := provision.Delivery{
			Request: provision.Request{Key: provision.Key{Tenant: "acme", Source: "nats", ID: c.id}, Fingerprint: hex.EncodeToString(sum[:])},
			Invalid: why, Seq: 7, Delivered: 3, EnteredAt: entered,
		}
		if diff := cmp.Diff(want, Unread("acme", c.headers, []byte(goodData), meta, why)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
