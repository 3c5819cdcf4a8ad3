package settings

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// checkNATS, checkVault, checkWork and checkTraces look at what must fit together in a group, after every variable
// was read.
func (set *Set) checkNATS(bad *Invalid) {
	s := &set.Settings
	pair(bad, "NATS_CERT", s.NATSCert, "NATS_KEY", s.NATSKey)
	if s.NATSUser != "" && s.NATSPassword == "" { // as the nats command has it
		s.NATSToken, s.NATSUser = cmp.Or(s.NATSToken, s.NATSUser), ""
		for i, v := range set.Values { // it turned out to be a secret
			if v.Name == natsUser && v.Value != "" {
				set.Values[i].Value = masked
			}
		}
	}
	if s.NATSPassword != "" && s.NATSUser == "" && !bad.has(natsUser) {
		bad.missing(natsUser, "is not set, and NATS_PASSWORD needs it")
	}
	if s.NATSUserSeed == "" && s.NATSUserJWT != "" {
		bad.missing(natsUserSeed, "is not set, and NATS_USER_JWT needs it")
	}
	one := ""
	for _, has := range []struct{ name, value string }{
		{natsCreds, s.NATSCreds}, {natsNkey, s.NATSNkey}, {natsUserJWT, s.NATSUserJWT}, {natsUser, s.NATSUser}, {natsToken, s.NATSToken},
	} {
		switch {
		case has.value == "":
		case one == "":
			one = has.name
		default:
			bad.add(has.name, "is set beside "+one+"; a client has one identity, so set one of them")
		}
	}
	if s.NATSJSDomain != "" && s.NATSJSAPIPrefix != "" {
		bad.add(natsJSAPIPrefix, "is set beside NATS_JS_DOMAIN, which is a prefix, too; set one of them")
	}
	insists := s.NATSCA != "" || s.NATSCert != "" || s.NATSTLSFirst || bad.has(natsURL)
	if host := plainPassword(s.NATSURL, s.NATSPassword != "" || s.NATSToken != ""); host != "" && !insists {
		set.Warnings = append(set.Warnings, "NATS_URL has a password for "+host+" and does not insist on TLS, so who is in between may read it; use tls://, NATS_CA, or NATS_CREDS or NATS_NKEY, which send no secret")
	}
}

// plainPassword returns the first host that a password is sent to, in clear if the server does not ask
// for TLS; nothing if there is none. One beside the URLs goes to all of them. NATS_CA and NATS_CERT make the client insist.
func plainPassword(list string, beside bool) string {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimSpace(one); !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err == nil && (u.User != nil || beside) && u.Scheme != "tls" && u.Scheme != "wss" && !loopback(u.Hostname()) {
			return u.Hostname()
		}
	}
	return ""
}

func (set *Set) checkVault(bad *Invalid) {
	s := &set.Settings
	pair(bad, "VAULT_CLIENT_CERT", s.VaultClientCert, "VAULT_CLIENT_KEY", s.VaultClientKey)
	if u, err := url.Parse(s.VaultServer()); err == nil && !bad.has("VAULT_ADDR", "VAULT_AGENT_ADDR") && u.Scheme != "unix" && !loopback(u.Hostname()) {
		if s.VaultSkipVerify {
			bad.add("VAULT_SKIP_VERIFY", "is true for "+u.Hostname()+", so anybody in between could read all secrets; leave it out and set VAULT_CACERT (and VAULT_TLS_SERVER_NAME, if the certificate is for another name)")
		}
		if s.VaultAuth == AuthNone {
			bad.add("VAULT_AUTH", "is none, so an agent has to add the token, and only one on this machine adds it for this worker alone; set VAULT_ADDR to its loopback address, such as http://127.0.0.1:8100, or to its socket, such as unix:///run/vault/agent.sock, or VAULT_AUTH to another method")
		}
	}
	if s.VaultAuth == AuthToken && s.VaultToken != "" && s.VaultTokenFile != "" {
		bad.add("VAULT_TOKEN_FILE", "is set beside VAULT_TOKEN, and only one token is used; set one of them")
	}
	needs := map[string][]string{ // :: VAULT_AUTH → what it can't do without
		AuthAppRole:    {"VAULT_ROLE_ID", s.VaultRoleID}, // a role may do without secret id
		AuthKubernetes: {"VAULT_ROLE", s.VaultRole},
		AuthJWT:        {"VAULT_ROLE", s.VaultRole, "VAULT_JWT_FILE", s.VaultJWTFile},
	}[s.VaultAuth]
	if s.VaultAuth == AuthToken && s.VaultToken == "" && s.VaultTokenFile == "" && !bad.has("VAULT_TOKEN", "VAULT_TOKEN_FILE") {
		bad.missing("VAULT_TOKEN", "is not set, and VAULT_AUTH=token needs it, or VAULT_TOKEN_FILE with the path of a file (such as ~/.vault-token, where `vault login` keeps it); where an agent adds the token, set VAULT_AUTH=none")
	}
	for need := range slices.Chunk(needs, 2) {
		if need[1] == "" && !bad.has(need[0]) {
			bad.missing(need[0], fmt.Sprintf("is not set, and VAULT_AUTH=%s needs it", s.VaultAuth))
		}
	}
	for name, value := range map[string]string{"VAULT_TOKEN": s.VaultToken, "VAULT_TOKEN_FILE": s.VaultTokenFile} {
		if s.VaultAuth != AuthToken && value != "" {
			set.Warnings = append(set.Warnings, name+" is set but not used, for VAULT_AUTH is "+s.VaultAuth)
		}
	}
}

func (set *Set) checkWork(bad *Invalid) {
	s := &set.Settings
	if s.RetryInitial > s.RetryDelayMax && !bad.has("WORKER_RETRY_INITIAL", "WORKER_RETRY_DELAY_MAX") {
		bad.add("WORKER_RETRY_INITIAL", fmt.Sprintf("%s is more than WORKER_RETRY_DELAY_MAX, %s; want the first wait to be the shorter one",
			short(s.RetryInitial), short(s.RetryDelayMax)))
	}
	if s.ShutdownTimeout <= s.FlowTimeout && !bad.has("WORKER_SHUTDOWN_TIMEOUT", "FLOW_TIMEOUT") {
		set.Warnings = append(set.Warnings, fmt.Sprintf("WORKER_SHUTDOWN_TIMEOUT (%s) should exceed FLOW_TIMEOUT (%s), or a POST under way at shutdown is given back with its outcome unknown",
			short(s.ShutdownTimeout), short(s.FlowTimeout)))
	}
}

// pair reports a certificate without its key, or the other way round.
func pair(bad *Invalid, a, av, b, bv string) {
	if (av == "") == (bv == "") {
		return
	}
	if av == "" {
		a, b = b, a
	}
	bad.missing(b, "is not set, and "+a+" needs it")
}

// serviceLink matches what Kubernetes sets for services called "worker" or "worker-…".
var serviceLink = regexp.MustCompile(`^[A-Z0-9_]+_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknownNames warns of WORKER_ variables that nothing reads: most likely a typo.
func unknownNames(env map[string]string) []string {
	var warnings []string
	for name := range env {
		if isVariable(name) || !strings.HasPrefix(name, "WORKER_") || serviceLink.MatchString(name) {
			continue
		}
		nearest, typos := "", 5
		for _, v := range variables {
			if d := distance(name, v.name); d < typos {
				nearest, typos = v.name, d
			}
		}
		w := name + " is no setting and is not read"
		if nearest != "" {
			w += "; did you mean " + nearest + "?"
		}
		warnings = append(warnings, w)
	}
	slices.Sort(warnings)
	return warnings
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
