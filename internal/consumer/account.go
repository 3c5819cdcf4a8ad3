package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The codes by which JetStream says that an account or a server has no room.
const (
	codeInsufficient    jetstream.ErrorCode = 10023
	codeMaxConsumers    jetstream.ErrorCode = 10026
	codeMaxStreams      jetstream.ErrorCode = 10027
	codeMemory          jetstream.ErrorCode = 10028
	codeStorage         jetstream.ErrorCode = 10047
	codeCreateFailed    jetstream.ErrorCode = 10049
	codeAccountFull     jetstream.ErrorCode = 10002
	codeNoPeers         jetstream.ErrorCode = 10005
	codeSubjectsTaken   jetstream.ErrorCode = 10065
	codeNoReplicas      jetstream.ErrorCode = 10074
	codeMaxBytes        jetstream.ErrorCode = 10113
	codeNoTier          jetstream.ErrorCode = 10120
	codeMaxAckPending   jetstream.ErrorCode = 10121
	codeMaxBytesTooMany jetstream.ErrorCode = 10122
)

const room = "four objects need room there: three streams and the ledger, each as large as WORKER_STREAM_MAX_BYTES, if that is set"

// remedies say what to set after a refusal: code → words.
var remedies = map[jetstream.ErrorCode]string{
	codeMaxBytes:        "this account wants a size for each stream: set WORKER_STREAM_MAX_BYTES, such as 1GB, within what the account has; " + room,
	codeMaxBytesTooMany: "set WORKER_STREAM_MAX_BYTES to no more than the account allows one stream (disk_max_stream_bytes)",
	codeAccountFull:     "the account's JetStream limits are used up: raise them (max_file, max_streams), or set a smaller WORKER_STREAM_MAX_BYTES; " + room,
	codeStorage:         "the account or the server has no file storage left that is not reserved: raise max_file (0 there means memory only, where a ledger would be lost with its server), or set a smaller WORKER_STREAM_MAX_BYTES; " + room + "; one that was made already keeps its size (nats stream edit)",
	codeInsufficient:    "the servers have no storage left that is not reserved, or too few servers are up for WORKER_REPLICAS; raise max_file_store, or set a smaller WORKER_STREAM_MAX_BYTES or WORKER_REPLICAS",
	codeMemory:          "the account has no room for memory; the worker's objects are files, so raise max_mem only if somebody changed them",
	codeMaxStreams:      "the account has as many streams as it may: raise max_streams by what is missing, or delete other streams; the worker needs four (three streams and the ledger's)",
	codeMaxConsumers:    "the account has as many consumers as it may: raise max_consumers, or delete others; the worker needs one, each of its commands that reads a stream one more for a while",
	codeNoReplicas:      "this is a single server, so set WORKER_REPLICAS=1, or run a cluster of three",
	codeNoPeers:         "the cluster has too few servers with JetStream and room for WORKER_REPLICAS copies: set a smaller one, or start more servers",
	codeNoTier:          "the account has no limits for this number of replicas: set WORKER_REPLICAS to one that it has (R1, R3), or add the tier",
	codeMaxAckPending:   "the account or the server limits max_ack_pending, and the worker's consumer has no bound: raise that limit, for a message that rests counts there",
	codeSubjectsTaken:   "another stream takes the same subjects: find it with \"nats stream ls --subject 'connections.>'\" and take them out of it, or use an account of its own",
}

// explained adds to an error what the account's rules have to do with it, and what to set.
func explained(ctx context.Context, js jetstream.JetStream, err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: this account has no JetStream: enable it for the account, or connect as a user of another one", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		if domain := js.Options().Domain; domain != "" {
			return fmt.Errorf("%w: no JetStream answers for the domain %q: is it the hub's (jetstream { domain: … }), is the way there up, and do accounts and leaf nodes let $JS.%s.API.> pass? See NATS_JS_DOMAIN", err, domain, domain)
		}
		if prefix := js.Options().APIPrefix; prefix != "" && prefix != jetstream.DefaultAPIPrefix {
			return fmt.Errorf("%w: no JetStream answers below the prefix %q: is NATS_JS_API_PREFIX the one that this account imports it with? Leave it out for the account's own JetStream", err, prefix)
		}
		return fmt.Errorf("%w: this server has no JetStream; enable it (nats-server -js), or, on a leaf node, set NATS_JS_DOMAIN to the domain that has it", err)
	case errors.As(err, &api) && remedies[api.ErrorCode] != "":
		return fmt.Errorf("%w: %s", err, remedies[api.ErrorCode])
	case errors.As(err, &api) && api.ErrorCode == codeCreateFailed:
		return fmt.Errorf("%w: see the server's log; its store may be full or not writable", err)
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil, errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: JetStream does not answer: this user may not be allowed to ask (NATS's log says so), or it has no leader", err)
	}
	return err
}
