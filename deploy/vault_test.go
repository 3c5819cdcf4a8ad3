package deploy

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	hclComment = regexp.MustCompile(`(?m)^\s*#.*$`)
	hclPath    = regexp.MustCompile(`path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*\}`)
)

// policyOf returns what a policy grants, and fails on text that it can't account for.
func policyOf(t *testing.T, text string) map[string]string { // :: path → capabilities
	t.Helper()
	text = hclComment.ReplaceAllString(text, "")
	granted := map[string]string{}
	for _, m := range hclPath.FindAllStringSubmatch(text, -1) {
		granted[m[1]] = strings.ReplaceAll(m[2], `"`, "")
	}
	if rest := strings.TrimSpace(hclPath.ReplaceAllString(text, "")); rest != "" {
		t.Errorf("policy has more than paths with capabilities: %q", rest)
	}
	return granted
}

// What the policy really allows is tried in TestVaultPolicy, with a real Vault (tag realvault).
func TestVaultPolicyGrantsTheLeast(t *testing.T) {
	t.Parallel()
	granted := map[string]string{
		"secret/data/flow/tenants/+/*": "read",
		"auth/token/renew-self":        "update",
		"auth/token/lookup-self":       "read",
	}
	if diff := cmp.Diff(granted, policyOf(t, string(read(t, "vault/policy.hcl")))); diff != "" {
		t.Errorf("policy.hcl (-want +got):\n%s", diff)
	}
}
