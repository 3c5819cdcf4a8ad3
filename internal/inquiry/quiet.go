package inquiry

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Quiet has the connection log errors and being cut off at most once a minute for each kind, for a
// tenant can bring them about, and try at once to be back, for the other tenants' sake. It takes the
// connection's handlers for these. A nil log is none.
func Quiet(nc *nats.Conn, log *slog.Logger) {
	s := newRareLog(log)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		s.warn("NATS reports an error: "+kindOf(err), "error", err)
	})
	nc.SetDisconnectErrHandler(func(nc *nats.Conn, err error) {
		s.warn("NATS disconnected; tenants' questions wait", "error", err)
		if nc.IsReconnecting() { // and sleeps
			_ = nc.ForceReconnect() // fails only on a connection that is closed
		}
	})
	nc.SetReconnectHandler(func(nc *nats.Conn) {
		s.warn("NATS reconnected; tenants' questions are heard", "url", nc.ConnectedUrlRedacted())
	})
}

// kindOf returns what an error says before it comes to a name, such as an inbox, which may be another each time.
func kindOf(err error) string {
	kind, _, _ := strings.Cut(err.Error(), `"`)
	return strings.TrimSpace(kind)
}

// rareEvery is how often one thing is logged.
const rareEvery = time.Minute

// rareLog warns of each thing at most once every rareEvery. It is safe for concurrent use.
type rareLog struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	last map[string]logged // :: message → when it was logged; guarded by mu
}

type logged struct {
	at     time.Time
	unsaid int // since then
}

func newRareLog(log *slog.Logger) *rareLog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &rareLog{log: log, now: time.Now, last: map[string]logged{}}
}

// warn logs a message, and how many like it were left out before.
func (s *rareLog) warn(message string, attrs ...any) {
	s.mu.Lock()
	t, before := s.last[message]
	now := s.now()
	quiet := before && now.Sub(t.at) < rareEvery
	if quiet {
		t.unsaid++
		s.last[message] = t
	} else {
		s.last[message] = logged{at: now}
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Warn(message, append(attrs, "left_out", t.unsaid)...) //nolint:sloglint // a constant of the caller's, or nearly
	}
}
