package flow

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Codes of the Flow Service that change a verdict. A code is the n of <PREFIX>-<n>-<status>: the
// status in it is not always the one of the answer.
const (
	codeProvider = 1308 // text of the connector's provider: bad credentials, cluster not running, …
	codeNoToken  = 2114
	codeBadToken = 2115
)

// clusterAsleep recognizes, in a provider's text, a cluster that does not run now but may later. The
// capitals are the states and error codes of Databricks' cluster API.
var clusterAsleep = regexp.MustCompile(`(?i)\b(` + strings.Join([]string{
	`not (in a )?(running|ready|started|active)`, `is(n't| not) running`, `not currently running`,
	`(is|was|been|state:?) (stopped|starting|pending|terminated|terminating|restarting|resizing)`,
	`TERMINATED`, `TERMINATING`, `PENDING`, `RESTARTING`, `RESIZING`,
	`TEMPORARILY_UNAVAILABLE`, `temporarily unavailable`, `CLUSTER_NOT_(READY|RUNNING)`,
}, "|") + `)\b`)

// numberRemedies says what people can do about a code of the Flow Service, by its n.
var numberRemedies = map[int]string{
	1100: "the organisation is not entitled to this source; Databricks needs Real-Time CDP Ultimate",
	1301: "use an auth.specName that the connection spec lists",
	1302: "use an auth.specName that the connection spec lists",
	1303: "use an auth.specName that the connection spec lists",
	1304: "add the field that the connection spec calls mandatory to auth.params",
	1308: "check domain, clusterId and database, that the Databricks token is valid and has not expired, and that the cluster runs",
	1405: "this is a bug of flow-worker, please report it",
	1413: "check connectionSpec.id and version",
	1415: "use an auth.specName that the connection spec lists, such as Access Token Authentication",
	1439: "it does not exist, or access labels hide it",
	2000: remedyOrg,
	2001: remedyOrg,
	2002: remedyOrg,
	2100: remedySandbox,
	2101: remedySandbox,
	2103: remedySandbox,
	2105: remedySandbox,
	2110: "this is a bug of flow-worker, please report it",
	2111: remedySandbox,
	2114: remedyToken,
	2115: remedyToken,
	2118: remedyRights,
	2120: remedyRights,
	2121: remedyRights,
}

// nameRemedies is the same for the codes of Adobe's gateway and of IMS.
var nameRemedies = map[string]string{
	"401013": remedyToken,
	"403010": "this is a bug of flow-worker, please report it",
	"403000": remedyKey,
	"403003": remedyKey,
	"403025": "the credential is not entitled in this organisation; " + remedyOrg,
	"403027": "check orgId (it ends in @AdobeOrg) and give the credential an Experience Platform product profile",
	"400003": remedyOrg,

	"invalid_client":      remedyClient,
	"unauthorized_client": remedyClient,
	"invalid_scope":       "set scopes in the tenant's adobe secret to those of the credential, separated by commas",
}

// statusRemedies is what remains where the code says nothing.
var statusRemedies = map[int]string{
	http.StatusUnauthorized:    remedyToken,
	http.StatusForbidden:       remedyRights,
	http.StatusTooManyRequests: "give the worker a credential of its own, or a lower WORKER_CONCURRENCY",
}

const (
	remedyOrg     = "check that orgId in the tenant's adobe secret is the organisation of its credential"
	remedyKey     = "check clientId (or apiKey) in the tenant's adobe secret"
	remedyClient  = "check clientId and clientSecret in the tenant's adobe secret"
	remedyToken   = "the Adobe token is not accepted; check clientId and clientSecret (or accessToken) in the tenant's adobe secret"
	remedySandbox = "check that the sandbox exists and that the credential may use it"
	remedyRights  = "give the credential's role the permission to manage sources in this sandbox"
)

// advise returns upstream's words, followed by what to do where that is known.
func advise(status int, p problem) string {
	text := p.message
	if text == "" {
		text = http.StatusText(status)
	}
	if text == "" {
		text = "HTTP status " + strconv.Itoa(status)
	}
	if r := remedy(status, p); r != "" {
		return strings.TrimRight(text, ". ") + "; " + r
	}
	return text
}

func remedy(status int, p problem) string {
	if r, ok := numberRemedies[p.number]; ok {
		return r
	}
	if r, ok := nameRemedies[p.code]; ok {
		return r
	}
	return statusRemedies[status]
}
