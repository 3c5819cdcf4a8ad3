//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a contender finds in its environment, the baseline and a --peer alike.
const (
	natsVariable     = "NATS_URL"
	flowVariable     = "FLOW_URL" // POST <FLOW_URL>/connections
	streamVariable   = "STREAM"
	consumerVariable = "CONSUMER"        // a durable pull consumer that is there already
	requestsVariable = "REQUESTS_PREFIX" // a request's subject is this and its tenant
	resultsVariable  = "RESULTS_PREFIX"  // a result's is this, its tenant and ".created"; its "subject" member is the request's id
	slotsVariable    = "SLOTS"           // how many POSTs may be under way
	ledgerVariable   = "LEDGER"          // baseline: the KV bucket of its two writes; empty means none
)

// baseline does what any program has to do for a request, and nothing to keep a promise: pull, POST, publish, ack.
// It is written as such a loop is written well: messages are fetched in batches ahead of the work, connections are
// kept alive (HTTP/2 where the server offers it, with fewer streams on each than servers use to allow), as many
// goroutines as slots, each waits for the confirmation of its result before it acknowledges, the acknowledgement
// itself is not waited for.
type baseline struct {
	js      jetstream.JetStream
	ledger  jetstream.KeyValue // nil means no writes
	url     string
	subject struct{ requests, results string }
}

// request is what the baseline reads of a message.
type request struct {
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data"`
}

func runBaseline(ctx context.Context, ready func(...string)) error {
	slots, err := strconv.Atoi(os.Getenv(slotsVariable))
	if err != nil {
		return fmt.Errorf("%s: %w", slotsVariable, err)
	}
	nc, err := nats.Connect(os.Getenv(natsVariable))
	if err != nil {
		return err
	}
	defer nc.Close()
	b := &baseline{url: os.Getenv(flowVariable) + "/connections"}
	b.subject.requests, b.subject.results = os.Getenv(requestsVariable), os.Getenv(resultsVariable)
	if b.js, err = jetstream.New(nc); err != nil {
		return err
	}
	if bucket := os.Getenv(ledgerVariable); bucket != "" {
		if b.ledger, err = b.js.KeyValue(ctx, bucket); err != nil {
			return err
		}
	}
	from, err := b.js.Consumer(ctx, os.Getenv(streamVariable), os.Getenv(consumerVariable))
	if err != nil {
		return err
	}
	messages := make(chan jetstream.Msg, slots)
	for i := 0; i < slots; i += streams {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: streams, IdleConnTimeout: time.Minute}}
		if err := b.agree(ctx, client); err != nil {
			return err
		}
		for range min(streams, slots-i) {
			go func() {
				for msg := range messages {
					if err := b.work(ctx, client, msg); err != nil {
						log.Print(err)
						_ = msg.Nak()
					}
				}
			}()
		}
	}
	ready()
	return fetch(ctx, from, slots, messages)
}

// streams are how many goroutines share a client, which with HTTP/2 has one connection.
const streams = 100

// agree connects a client, so that it knows whether the server speaks HTTP/2: else every goroutine would begin with a
// connection of its own.
func (b *baseline) agree(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, b.url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// fetch pulls until ctx ends.
func fetch(ctx context.Context, from jetstream.Consumer, slots int, to chan<- jetstream.Msg) error {
	for ctx.Err() == nil {
		batch, err := from.Fetch(slots, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			to <- msg
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			log.Print(err)
		}
	}
	return nil
}

func (b *baseline) work(ctx context.Context, client *http.Client, msg jetstream.Msg) error {
	tenant := strings.TrimPrefix(msg.Subject(), b.subject.requests)
	var r request
	if err := json.Unmarshal(msg.Data(), &r); err != nil {
		return err
	}
	key, revision := tenant+"."+r.ID, uint64(0)
	var err error
	if b.ledger != nil {
		if revision, err = b.ledger.Create(ctx, key, record(r.ID, "posting", 900)); err != nil {
			return err
		}
	}
	made, err := b.post(ctx, client, tenant, r.Data)
	if err != nil {
		return err
	}
	if b.ledger != nil {
		if _, err = b.ledger.Update(ctx, key, record(r.ID, "created", 1800), revision); err != nil {
			return err
		}
	}
	result, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": r.ID, "source": "/bench/" + tenant, "subject": r.ID, "type": "bench.created",
		"time": time.Now(), "data": json.RawMessage(made),
	})
	if err != nil {
		return err
	}
	if _, err := b.js.Publish(ctx, b.subject.results+tenant+".created", result, jetstream.WithMsgID(tenant+r.ID)); err != nil {
		return err
	}
	return msg.Ack()
}

// post makes the connection and returns the answer.
func (b *baseline) post(ctx context.Context, client *http.Client, tenant string, data []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"Authorization": "Bearer bench", "X-Api-Key": "bench", "X-Gw-Ims-Org-Id": tenant + "@AdobeOrg",
		"X-Sandbox-Name": "prod", "Content-Type": "application/json", "Accept": "application/json"} {
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	made, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusCreated {
		err = errors.New(res.Status)
	}
	return made, err
}

// record returns what a ledger would hold of a request; the sizes that it is called with are those of the worker's.
func record(id, state string, size int) []byte {
	r := fmt.Appendf(nil, `{"id":%q,"state":%q,"at":%q,"pad":"`, id, state, time.Now().Format(time.RFC3339Nano))
	return append(append(r, strings.Repeat("x", max(0, size-len(r)))...), `"}`...)
}
