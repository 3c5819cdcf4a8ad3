package story

import (
	"fmt"
	"strings"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Command is a command line that acts on a request, or looks at it.
type Command struct {
	Line string // for a POSIX shell; where the request's names hold what does not print, for one that knows $'…'
	Does string // what it does, in plain words
}

// Commands returns what an operator can type about a request as it stands, the most useful first. What
// changes something asks for confirmation before it does.
func Commands(rec provision.Record) []Command {
	var list []Command
	switch {
	case rec.Final == nil:
		return []Command{
			{CommandLine("status", rec.Key, "--watch"), "follows it until it has ended"},
			{"worker list --stuck --tenant " + Word(rec.Key.Tenant), "tells whether a message still carries it"},
		}
	case rec.Final.Result.Error == nil:
	case rec.Final.Result.Error.Reason == provision.ReasonOutcomeUnknown:
		list = append(list,
			Command{CommandLine("retry", rec.Key, ""), "sends it again: it is looked up before anything is posted"},
			Command{CommandLine("resolve", rec.Key, "--connection CONNECTION --reason WHY"), "settles it where a retry can't: you name the connection that it made"},
			Command{CommandLine("resolve", rec.Key, "--absent --reason WHY"), "settles it where a retry can't: you say that it made none"})
	case sentAgain(rec.Final.Result.Error.Reason):
		list = append(list, Command{CommandLine("retry", rec.Key, "--dry-run"), "shows what would be sent again"},
			Command{CommandLine("retry", rec.Key, ""), "sends it again, once its cause is mended; it is looked up before anything is posted"})
	}
	return append(list, Command{CommandLine("status", rec.Key, ""), "tells this story in a terminal"})
}

// sentAgain reports whether sending a request again unchanged is of any use, after its cause was mended.
func sentAgain(r provision.Reason) bool {
	return r != provision.ReasonInvalidRequest && r != provision.ReasonPlaintextSecret && r != provision.ReasonIDReused
}

// CommandLine returns the line that has a subcommand of worker act on a request, for a POSIX shell as in Command.
// The flag goes with it as it is; it may be empty. Don't put the line into quotes of any kind: who copies them with
// it takes its own quotes away.
func CommandLine(command string, key provision.Key, flag string) string {
	words := []string{"worker", command, "--tenant", Word(key.Tenant), "--source", Word(key.Source)}
	if flag != "" {
		words = append(words, flag)
	}
	if strings.HasPrefix(key.ID, "-") {
		words = append(words, "--")
	}
	return strings.Join(append(words, Word(key.ID)), " ")
}

// Word returns text as one word of a shell's command line, of printable characters only.
func Word(text string) string {
	switch {
	case text != "" && strings.Trim(text, wordChars) == "":
		return text
	case Printable(text) == text:
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case strings.IndexByte(wordChars, c) >= 0 || c == ' ':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return "$'" + b.String() + "'"
}

// wordChars are those that no shell makes anything of, wherever they stand.
const wordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@%+,"

// Remedy returns what a person can do about a failure, beside what its message says; empty where there is
// nothing to do.
func Remedy(f *provision.Failure) string {
	if f == nil {
		return ""
	}
	return remedies[f.Reason]
}

var remedies = map[provision.Reason]string{ // :: reason → what to do
	provision.ReasonInvalidRequest:   "Its sender has to correct it and send it under a new id: every violation is named in the message.",
	provision.ReasonPlaintextSecret:  "A token was sent in the clear. Have it revoked, put a new one into Vault, and send the request with a reference to it, under a new id.",
	provision.ReasonSecretForbidden:  "The secret may not be used so. Its owner can change the secret's own field “domain”, or the sender the reference; then retry it.",
	provision.ReasonSecretNotFound:   "Put the secret where the reference points to, under the tenant's own prefix in Vault, then retry it.",
	provision.ReasonTenantUnknown:    "Write the tenant's “adobe” secret to Vault, then retry it.",
	provision.ReasonIDReused:         "Its sender has to give every request an id of its own.",
	provision.ReasonNameExists:       "Use the connection that is there, or send the request with another name, under a new id.",
	provision.ReasonFlowRejected:     "Adobe refused the request as it is. Mend what the message names, at Databricks or in the secret, then retry it; if it is in the request itself, send a corrected one under a new id.",
	provision.ReasonFlowDenied:       "Adobe refused the tenant's credentials or their rights. Mend the “adobe” secret or the rights in the Admin Console, then retry it.",
	provision.ReasonFlowUnavailable:  "The Flow Service did not take it before its deadline. When it is well again, retry it.",
	provision.ReasonVaultUnavailable: "Vault did not answer before the deadline, or denied the worker. Mend that (worker doctor tells what it is), then retry it.",
	provision.ReasonOutcomeUnknown:   "Retry it, which looks for its connection once more. Where that can't tell either, look in the sandbox yourself, as the message says, and settle it with resolve.",
	provision.ReasonExpired:          "It was too late when it was first seen. Retry it if it is still wanted: a retry knows no expirytime.",
	provision.ReasonCrashLoop:        "Workers died while they worked on it. Read their logs before you retry it.",
	provision.ReasonInternal:         "A bug in flow-worker stopped it. Search the worker's log for the log id in the message, and report it.",
}
