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

// What the policies really allow is tried in TestVaultMatrix, with a real Vault (tag realvault).
func TestVaultPoliciesGrantTheLeast(t *testing.T) {
	t.Parallel()
	for file, tenant := range map[string]string{
		"vault/policy.hcl": "+", "vault/policy-tenants.hcl": "acme", "vault/policy-entity.hcl": "{{identity.entity.metadata.tenant}}",
	} {
		granted := map[string]string{
			"secret/data/flow/tenants/" + tenant + "/*": "read",
			"auth/token/renew-self":                     "update",
			"auth/token/lookup-self":                    "read",
		}
		if diff := cmp.Diff(granted, policyOf(t, string(read(t, file)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}
