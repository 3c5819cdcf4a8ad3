package flowtest

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// scope keeps the connections of one sandbox of one organization apart from all others.
type scope struct{ org, sandbox string }

// conn is a connection. It is never changed once it is stored: an update stores a changed copy.
type conn struct {
	seq         uint64 // order of creation, from 1
	id, etag    string
	in          scope
	name        string
	description string
	specID      string
	specVersion string
	specName    string
	params      map[string]any // with the secrets
	secret      []string       // the names of those
	draft       bool
	fixed       string // the state it stays in, empty if none
	created     time.Time
	updated     time.Time
	listedAt    time.Time // when lists begin to show it
	readyAt     time.Time // when it stops being "initializing"
	creator     string    // the API key
	updater     string
	lastOp      string
}

// listing holds the connections of one scope, in the order of creation.
type listing struct {
	all   []*conn
	names map[string][]*conn // :: name → connections
}

// store keeps all connections.
type store struct {
	dice   *dice
	mu     sync.RWMutex
	seq    uint64
	writes uint32 // counted for etags
	byID   map[string]*conn
	scopes map[scope]*listing
}

func newStore(d *dice) *store {
	s := &store{dice: d}
	s.clear()
	return s
}

func (s *store) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID, s.scopes = map[string]*conn{}, map[scope]*listing{}
}

// nextEtag returns a new etag, which includes its quotes, in the form that Flow Service uses.
func (s *store) nextEtag(now time.Time) string {
	s.writes++
	return fmt.Sprintf(`"%08x-0000-0200-0000-%08x0000"`, 0x1f00a000+s.writes, uint32(now.Unix()))
}

// add stores c, which gets its id and etag. With unique it returns nil, and stores nothing, if there is one of
// that name in the scope.
func (s *store) add(c conn, unique bool) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.scopes[c.in]; unique && l != nil && len(l.names[c.name]) > 0 {
		return nil
	}
	s.seq++
	c.seq, c.id, c.etag = s.seq, s.dice.uuid(), s.nextEtag(c.created)
	s.byID[c.id] = &c
	l := s.scopes[c.in]
	if l == nil {
		l = &listing{names: map[string][]*conn{}}
		s.scopes[c.in] = l
	}
	l.insert(&c)
	return &c
}

// get returns the connection, if it is in that scope.
func (s *store) get(in scope, id string) (*conn, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.byID[id]
	if !ok || c.in != in {
		return nil, false
	}
	return c, true
}

// update replaces old, if it is still stored, by what change makes of a copy. It returns false if
// another write came first.
func (s *store) update(old *conn, now time.Time, change func(*conn)) (*conn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[old.id] != old {
		return nil, false
	}
	c := *old
	change(&c)
	c.updated, c.etag = now, s.nextEtag(now)
	s.byID[c.id] = &c
	l := s.scopes[c.in]
	l.remove(old)
	l.insert(&c)
	return &c, true
}

// remove deletes old, if it is still stored.
func (s *store) remove(old *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[old.id] != old {
		return false
	}
	delete(s.byID, old.id)
	s.scopes[old.in].remove(old)
	return true
}

// chunk returns up to n connections of the scope that are older than before (0: the newest), newest
// first. With byName only those of that name are looked at.
func (s *store) chunk(in scope, byName *string, before uint64, n int) []*conn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.scopes[in]
	if l == nil {
		return nil
	}
	list := l.all
	if byName != nil {
		list = l.names[*byName]
	}
	end := len(list)
	if before > 0 {
		end, _ = slices.BinarySearchFunc(list, before, compareSeq)
	}
	out := slices.Clone(list[max(0, end-n):end])
	slices.Reverse(out)
	return out
}

// everything returns all connections of all scopes, oldest first.
func (s *store) everything() []*conn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*conn, 0, len(s.byID))
	for _, c := range s.byID {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *conn) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

func compareSeq(c *conn, seq uint64) int { return cmp.Compare(c.seq, seq) }

func (l *listing) insert(c *conn) {
	l.all = insertSeq(l.all, c)
	l.names[c.name] = insertSeq(l.names[c.name], c)
}

func (l *listing) remove(c *conn) {
	l.all = removeSeq(l.all, c)
	if l.names[c.name] = removeSeq(l.names[c.name], c); len(l.names[c.name]) == 0 {
		delete(l.names, c.name)
	}
}

func insertSeq(list []*conn, c *conn) []*conn {
	i, _ := slices.BinarySearchFunc(list, c.seq, compareSeq)
	return slices.Insert(list, i, c)
}

func removeSeq(list []*conn, c *conn) []*conn {
	i, found := slices.BinarySearchFunc(list, c.seq, compareSeq)
	if !found {
		return list
	}
	return slices.Delete(list, i, i+1)
}

// Stored is a connection as the emulator keeps it.
type Stored struct {
	ID            string    `json:"id"`
	Etag          string    `json:"etag"`
	OrgID         string    `json:"orgId"`
	Sandbox       string    `json:"sandbox"`
	Name          string    `json:"name"`
	Description   string    `json:"description"`
	SpecID        string    `json:"specId"`
	SpecVersion   string    `json:"specVersion"`
	AuthSpec      string    `json:"authSpec"`
	State         string    `json:"state"`
	CreatedAt     time.Time `json:"createdAt"`
	UpdatedAt     time.Time `json:"updatedAt"`
	CreatedClient string    `json:"createdClient"`
	// Params are the params with "xxxx" for every secret.
	Params map[string]any `json:"params"`
	// Secrets are the true values of those, by param.
	Secrets map[string]provision.Sensitive `json:"-"`
	// AccessToken is Secrets["accessToken"].
	AccessToken provision.Sensitive `json:"-"`
}

// Connections returns all connections of all organizations and sandboxes, listed or not, oldest first.
func (e *Emulator) Connections() []Stored {
	now := e.cfg.Clock()
	all := e.store.everything()
	out := make([]Stored, 0, len(all))
	for _, c := range all {
		out = append(out, c.stored(now))
	}
	return out
}

func (c *conn) stored(now time.Time) Stored {
	s := Stored{
		ID: c.id, Etag: c.etag, OrgID: c.in.org, Sandbox: c.in.sandbox, Name: c.name, Description: c.description,
		SpecID: c.specID, SpecVersion: c.specVersion, AuthSpec: c.specName, State: c.state(now),
		CreatedAt: c.created, UpdatedAt: c.updated, CreatedClient: c.creator,
		Params: c.maskedParams(), Secrets: map[string]provision.Sensitive{},
	}
	for _, name := range c.secret {
		if text, ok := c.params[name].(string); ok {
			s.Secrets[name] = provision.NewSensitive(text)
		}
	}
	s.AccessToken = s.Secrets["accessToken"]
	return s
}

var markPattern = regexp.MustCompile(regexp.QuoteMeta(provision.MarkPrefix) + `[0-9a-f]+\]`)

// Marks returns for every flow-worker mark, such as "[flow-worker 0a1b…]", the ids of the connections
// whose description holds it, oldest first. More than one id means duplicates.
func (e *Emulator) Marks() map[string][]string {
	out := map[string][]string{}
	for _, c := range e.store.everything() {
		marks := markPattern.FindAllString(c.description, -1)
		slices.Sort(marks)
		for _, mark := range slices.Compact(marks) {
			out[mark] = append(out[mark], c.id)
		}
	}
	return out
}
