package vault

import (
	"net/http"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// TestHealthOfEachKind answers as Vault does to the client, which asks for 299 where a node isn't active.
func TestHealthOfEachKind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		part   string // of the error; empty means healthy
	}{
		"active":               {200, `{"initialized":true,"sealed":false,"standby":false}`, ""},
		"a standby forwards":   {299, `{"initialized":true,"sealed":false,"standby":true}`, ""},
		"performance standby":  {299, `{"initialized":true,"sealed":false,"standby":true,"performance_standby":true}`, ""},
		"DR primary":           {200, `{"initialized":true,"sealed":false,"replication_dr_mode":"primary"}`, ""},
		"DR secondary":         {299, `{"initialized":true,"sealed":false,"replication_dr_mode":"secondary"}`, "disaster recovery secondary"},
		"sealed":               {299, `{"initialized":true,"sealed":true}`, "sealed"},
		"not initialized":      {299, `{"initialized":false,"sealed":true}`, "not initialized"},
		"a proxy's bad day":    {502, `<html>`, "502"},
		"something else there": {200, `<html>`, "health"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			})
			client, err := New(Config{Address: "https://vault.test:8200", Token: provision.NewSensitive("t"), transport: inMemory{answer}})
			if err != nil {
				t.Fatal(err)
			}
			err = client.Health(t.Context())
			if tc.part == "" && err != nil {
				t.Errorf("unwell: %v", err)
			} else if tc.part != "" {
				checkProblem(t, err, provision.SecretUnavailable, tc.part)
			}
		})
	}
}
