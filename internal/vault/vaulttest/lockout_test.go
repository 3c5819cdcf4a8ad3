package vaulttest

import (
	"testing"
	"time"
)

// TestLockout walks through Vault's default: five refusals, each at most 15 minutes after the one before.
func TestLockout(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	c := newClient(t, Config{Now: func() time.Time { return now }, Roles: []Role{{RoleID: "id", SecretID: "secret"}, {RoleID: "other", SecretID: "secret"}}}).as("")
	try := func(role, secret string, want int) {
		t.Helper()
		c.do("PUT", "auth/approle/login", `{"role_id":"`+role+`","secret_id":"`+secret+`"}`).want(t, want)
	}
	for range 4 {
		try("id", "wrong", 400)
		now = now.Add(15 * time.Minute)
	}
	try("id", "secret", 200) // which sets the count to zero
	for range 4 {
		try("id", "wrong", 400)
	}
	now = now.Add(15*time.Minute + time.Second) // and so does time
	for range 5 {
		try("id", "", 400) // is not counted
		try("id", "wrong", 400)
		now = now.Add(10 * time.Minute)
	}
	now = now.Add(-10 * time.Minute)
	try("id", "secret", 403)
	try("id", "wrong", 403) // is not counted, nor does it prolong the lock
	try("other", "secret", 200)
	now = now.Add(15*time.Minute - 1)
	try("id", "secret", 403)
	now = now.Add(1)
	try("id", "secret", 200)
}
