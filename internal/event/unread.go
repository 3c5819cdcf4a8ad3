package event

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Unread returns the delivery of a message that Decode could not carry through, which is a bug: why
// says so. Nothing of the message is believed, so the stand-ins name it, its fingerprint is that of the
// body as it came, and a retry header is not looked at.
func Unread(tenant string, in map[string][]string, body []byte, meta Meta, why *provision.Failure) provision.Delivery {
	m := &message{headers: fold(in)}
	sum := sha256.Sum256(body)
	return provision.Delivery{
		Request: provision.Request{
			Key:         provision.Key{Tenant: tenant, Source: bareSource, ID: m.standIn(meta)},
			Fingerprint: hex.EncodeToString(sum[:]),
		},
		Invalid:   why,
		Seq:       meta.Seq,
		Delivered: meta.Delivered,
		EnteredAt: meta.Timestamp,
	}
}
