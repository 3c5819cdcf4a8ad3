package flow

import (
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/flow-worker/flow-worker/internal/provision"
	"github.com/google/go-cmp/cmp"
)

// rotation is an IMS at which one client secret is good, and another one after that.
type rotation struct {
	mu   sync.Mutex
	good string
	seen []string // the secrets that it was asked with
}

func (r *rotation) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	secret := req.FormValue("client_secret")
	r.seen = append(r.seen, secret)
	switch {
	case secret != r.good:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"invalid client_secret parameter"}`)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"`+imsToken+`","token_type":"bearer","expires_in":3600}`)
	}
}

// asked returns the secrets of the calls since the last time.
func (r *rotation) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

func (r *rotation) rotate(good string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good = good
}

// TestClientSecretsRotateWithoutAGap: each is tried, the one that worked comes first the next time, and only when
// all are refused is the tenant.
func TestClientSecretsRotateWithoutAGap(t *testing.T) {
	t.Parallel()
	service := &rotation{good: "secret-two"}
	addr, _ := serve(t, service.ServeHTTP)
	r := newRig(t, addr)
	as := imsAccount()
	as.Credentials.ClientSecret = provision.NewSensitive("secret-one")
	as.Credentials.OtherSecrets = []provision.Sensitive{provision.NewSensitive("secret-two"), provision.NewSensitive("secret-three")}
	authorize := func(want ...string) *provision.CallError {
		t.Helper()
		failed := r.Authorize(t.Context(), as)
		r.checkNoLeak(t, failed)
		if diff := cmp.Diff(want, service.asked()); diff != "" {
			t.Errorf("secrets tried (-want +got):\n%s", diff)
		}
		r.drop(as, grant{token: provision.NewSensitive(imsToken)})
		return callError(t, failed)
	}
	if err := authorize("secret-one", "secret-two"); err != nil {
		t.Fatal(err)
	}
	if err := authorize("secret-two"); err != nil {
		t.Fatal(err)
	}
	service.rotate("secret-one")
	if err := authorize("secret-two", "secret-three", "secret-one"); err != nil {
		t.Fatal(err)
	}
	service.rotate("another")
	if err := authorize("secret-one", "secret-two", "secret-three"); err == nil || err.Verdict != provision.VerdictDenied || err.Code != "invalid_client" {
		t.Errorf("all are refused: %+v", err)
	}
}
