package deploy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const k8sBase = "kubernetes/base"

// k8sObject returns the object in a file of the base.
func k8sObject(t *testing.T, file string) map[string]any {
	t.Helper()
	var obj map[string]any
	readYAML(t, filepath.Join(k8sBase, file), &obj)
	return obj
}

// k8sSettings returns the settings that the ConfigMap is made of.
func k8sSettings(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{}
	for line := range strings.Lines(string(read(t, k8sBase+"/settings.env"))) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if _, twice := env[name]; !ok || value == "" || twice {
			t.Errorf("settings.env: %q", line)
		}
		checkSettings(t, "settings.env", name)
		env[name] = value
	}
	return env
}

func TestKustomizationsNameEveryFile(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{k8sBase, "kubernetes/overlays/servicemonitor"} {
		var kust map[string]any
		readYAML(t, filepath.Join(dir, "kustomization.yaml"), &kust)
		var resources []string
		for _, r := range dig(t, kust, "resources").([]any) {
			resources = append(resources, fmt.Sprint(r))
			if found, err := filepath.Glob(filepath.Join(dir, fmt.Sprint(r))); err != nil || len(found) != 1 {
				t.Errorf("%s: resource %v is not there", dir, r)
			}
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
		for _, f := range files {
			if name := filepath.Base(f); name != "kustomization.yaml" && !slices.Contains(resources, name) {
				t.Errorf("%s: %s is in no list of resources", dir, name)
			}
		}
	}
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	dep := k8sObject(t, "deployment.yaml")
	spec := dig(t, dep, "spec", "template", "spec")
	worker := dig(t, spec, "containers", 0)

	seconds, _ := dig(t, spec, "terminationGracePeriodSeconds").(int)
	if timeout := shutdownTimeout(t, k8sSettings(t)); time.Duration(seconds)*time.Second < timeout+10*time.Second {
		t.Errorf("terminationGracePeriodSeconds is %d, want at least 10 s more than WORKER_SHUTDOWN_TIMEOUT, %s", seconds, timeout)
	}
	want(t, spec, true, "securityContext", "runAsNonRoot")
	want(t, spec, "RuntimeDefault", "securityContext", "seccompProfile", "type")
	want(t, spec, false, "automountServiceAccountToken")
	want(t, spec, false, "enableServiceLinks")
	want(t, worker, true, "securityContext", "readOnlyRootFilesystem")
	want(t, worker, false, "securityContext", "allowPrivilegeEscalation")
	want(t, worker, "[ALL]", "securityContext", "capabilities", "drop")
	want(t, worker, "/healthz", "livenessProbe", "httpGet", "path")
	want(t, worker, "/readyz", "readinessProbe", "httpGet", "path")
	want(t, worker, "[run]", "args")
	want(t, dep, 0, "spec", "strategy", "rollingUpdate", "maxUnavailable")
	for _, path := range [][]any{{"requests", "cpu"}, {"requests", "memory"}, {"limits", "memory"}} {
		dig(t, worker, append([]any{"resources"}, path...)...)
	}
	if n := len(dig(t, spec, "topologySpreadConstraints").([]any)); n < 1 {
		t.Error("nothing spreads the workers")
	}
	user, _ := dig(t, spec, "securityContext", "runAsUser").(int)
	if !strings.Contains(string(read(t, "../Dockerfile")), fmt.Sprintf("USER %d:%d", user, user)) {
		t.Errorf("runAsUser %d is not the image's user", user)
	}
}

// The files that the settings name are mounted, and the token has the audience that Vault's role wants.
func TestDeploymentMountsWhatTheSettingsName(t *testing.T) {
	t.Parallel()
	spec := dig(t, k8sObject(t, "deployment.yaml"), "spec", "template", "spec")
	env := k8sSettings(t)
	mounts := map[string]string{} // :: path → volume
	for _, m := range dig(t, spec, "containers", 0, "volumeMounts").([]any) {
		want(t, m, true, "readOnly")
		mounts[fmt.Sprint(dig(t, m, "mountPath"))] = fmt.Sprint(dig(t, m, "name"))
	}
	for _, name := range []string{"NATS_CREDS", "VAULT_JWT_FILE"} {
		if mounts[filepath.Dir(env[name])] == "" {
			t.Errorf("%s=%s is not mounted", name, env[name])
		}
	}
	token := dig(t, spec, "volumes", 1, "projected", "sources", 0, "serviceAccountToken")
	want(t, token, filepath.Base(env["VAULT_JWT_FILE"]), "path")
	want(t, token, "vault", "audience")
	if env["VAULT_AUTH"] != "kubernetes" || env["VAULT_ROLE"] == "" || !strings.HasPrefix(env["VAULT_ADDR"], "https://") {
		t.Errorf("Vault settings: %v", env)
	}
}

func TestKubernetesObjectsFitTogether(t *testing.T) {
	t.Parallel()
	dep := k8sObject(t, "deployment.yaml")
	account := k8sObject(t, "serviceaccount.yaml")
	want(t, dep, dig(t, account, "metadata", "name"), "spec", "template", "spec", "serviceAccountName")

	pdb := k8sObject(t, "poddisruptionbudget.yaml")
	want(t, pdb, 1, "spec", "maxUnavailable")
	if replicas, _ := dig(t, dep, "spec", "replicas").(int); replicas < 2 {
		t.Errorf("%d replicas, want two or more", replicas)
	}

	svc := k8sObject(t, "service.yaml")
	want(t, svc, true, "spec", "publishNotReadyAddresses")
	ports := dig(t, svc, "spec", "ports").([]any)
	if len(ports) != 1 {
		t.Errorf("service has %d ports, want the metrics port alone", len(ports))
	}
	want(t, ports[0], 8080, "port")
	want(t, dep, dig(t, ports[0], "targetPort"), "spec", "template", "spec", "containers", 0, "ports", 0, "name")
	if n := len(dig(t, dep, "spec", "template", "spec", "containers", 0, "ports").([]any)); n != 1 {
		t.Errorf("container opens %d ports, want one", n)
	}

	policy := k8sObject(t, "networkpolicy.yaml")
	want(t, policy, "[Ingress Egress]", "spec", "policyTypes")
	want(t, policy, 8080, "spec", "ingress", 0, "ports", 0, "port")

	var monitor map[string]any
	readYAML(t, "kubernetes/overlays/servicemonitor/servicemonitor.yaml", &monitor)
	want(t, monitor, dig(t, ports[0], "name"), "spec", "endpoints", 0, "port")
}
