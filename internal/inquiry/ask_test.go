package inquiry

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/flow-worker/flow-worker/internal/natstest"
)

// A question that is lost is sent again, also while nobody is there who has heard it before.
func TestLostQuestionsAreAskedAgain(t *testing.T) {
	t.Parallel()
	url := natstest.Run(t, natstest.Options{}).ClientURL()
	worker, asker := natstest.Connect(t, url).Conn(), natstest.Connect(t, url).Conn()
	heard := make(chan *nats.Subscription, 1)
	sub, err := worker.QueueSubscribe(Subject("acme"), group, func(m *nats.Msg) { heard <- m.Sub })
	if err == nil {
		err = worker.FlushWithContext(within(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := asker.Subscribe("_INBOX.>", func(m *nats.Msg) { // told to the asker, too
		if m.Header.Get("Status") != "503" {
			return
		}
		if _, err := worker.Subscribe(Subject("acme"), func(m *nats.Msg) { _ = m.Respond([]byte(`{"records":[{}]}`)) }); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nobody.Unsubscribe() }()
	go func() {
		<-heard
		if err := sub.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}()
	if got, err := Ask(within(t), asker, "acme", Question{ID: "r-1"}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
