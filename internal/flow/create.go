package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flow-worker/flow-worker/internal/provision"
)

// Create sends exactly one POST, or none: nothing is sent after notAfter or after ctx's deadline, and
// the call ends by then too. If conn cannot have been made its error's Verdict says so; the bearer
// token is fetched first, and trouble with it means that nothing was sent. A refused bearer token is
// forgotten, so the next call fetches another one.
func (c *Client) Create(ctx context.Context, as provision.Account, conn provision.NewConnection, notAfter time.Time) (provision.Connection, error) {
	began := time.Now()
	made, err := c.create(ctx, as, conn, notAfter)
	c.logCall(ctx, opCreate, as, began, err)
	if err != nil {
		return provision.Connection{}, err
	}
	return made, nil
}

func (c *Client) create(ctx context.Context, as provision.Account, conn provision.NewConnection, notAfter time.Time) (provision.Connection, *provision.CallError) {
	if err := checkConnection(conn); err != nil {
		return provision.Connection{}, err
	}
	f := newFence(ctx, notAfter)
	ctx, cancel := context.WithDeadline(ctx, f.mono)
	defer cancel()
	g, cerr := c.grant(ctx, as)
	if cerr != nil {
		return provision.Connection{}, cerr
	}
	s := scrubberOf(as.Credentials, conn.AccessToken, g.token)
	a, cerr := c.postOnce(ctx, c.poster(), as, g, conn, f, s)
	if cerr != nil && cerr.Verdict == provision.VerdictNotSent && f.lost() {
		// The connection that it got was just being closed, and nothing was sent on it: it goes by a new one.
		f.done(false)
		f = newFence(ctx, notAfter)
		a, cerr = c.postOnce(ctx, c.postFresh, as, g, conn, f, s)
	}
	if cerr != nil {
		if reused := f.done(false); reused && cerr.Verdict == provision.VerdictUnknown && cerr.Cause == provision.CauseNetwork {
			c.avoidReuse()
		}
		return provision.Connection{}, cerr
	}
	made, cerr := c.created(as, g, a, s)
	if cerr == nil && f.repeats(made.ID) {
		c.avoidReuse()
		made, cerr = provision.Connection{}, &provision.CallError{
			Verdict: provision.VerdictUnknown, Target: provision.TargetFlow, Cause: provision.CauseNetwork, Status: a.status,
			Message: "the answer is that of another request on the same network connection",
		}
	}
	f.done(cerr == nil)
	return made, cerr
}

// postOnce sends the one POST.
func (c *Client) postOnce(ctx context.Context, via http.RoundTripper, as provision.Account, g grant, conn provision.NewConnection, f *fence, s scrubber) (answer, *provision.CallError) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var req *http.Request
	body, err := json.Marshal(wireConnection(conn))
	if err == nil {
		req, err = c.request(fenced(ctx, f), http.MethodPost, c.postURL, body, as, g)
	}
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
		err = f.check()
	}
	if err != nil { // it was not even begun
		cerr := unanswered(provision.TargetFlow, provision.VerdictNotSent, err, s)
		cerr.Err = fmt.Errorf("%w: %w", provision.ErrNotAsked, cerr.Err)
		return answer{}, cerr
	}
	a, err := exchange(via, req, maxBody)
	if err == nil {
		f.release()
		return a, nil
	}
	ended := ctx.Err()
	if ended == nil {
		ended = f.check()
	}
	if ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w: %w", ended, err) // what comes of it in the network is no cause
	}
	verdict := provision.VerdictNotSent
	if f.seal() {
		verdict = provision.VerdictUnknown
	}
	return answer{}, unanswered(provision.TargetFlow, verdict, err, s)
}

// created reads the answer to a POST.
func (c *Client) created(as provision.Account, g grant, a answer, s scrubber) (provision.Connection, *provision.CallError) {
	if a.status < 200 || a.status > 299 {
		err := judge(a, s)
		if err.Verdict == provision.VerdictUnauthorized {
			c.drop(as, g)
		}
		return provision.Connection{}, err
	}
	if conn := readConnection(a, c.base, s); conn.ID != "" {
		return conn, nil
	}
	err := judge(a, s)
	err.Message = "the answer says success but names no connection"
	if a.bodyErr != nil {
		err.Cause, err.Err = causeOf(a.bodyErr), newNetError(a.bodyErr, s)
	}
	return provision.Connection{}, err
}

// connectionStates are the words that the state of a connection may be.
var connectionStates = []string{"enabled", "disabled", "initializing", "draft"}

// readConnection returns the connection that a 200 or 201 names: in its body, or where that is empty in its
// Location. The ID is empty if there is none that can be believed: other statuses of success,
// and a body that says that something failed, come from gateways and job queues, which have ids of their own.
func readConnection(a answer, base *url.URL, s scrubber) provision.Connection {
	var conn provision.Connection
	switch body, ok := readObject(a.body); {
	case a.bodyErr != nil || a.status != http.StatusOK && a.status != http.StatusCreated:
	case ok && body.misspelled("id", "etag") == "" && !body.saysFailure(connectionStates):
		conn.ID, conn.Etag = connectionID(body.text("id"), s), etag(body.text("etag"), s)
	case formOf(a) == formEmpty && a.status == http.StatusCreated:
		conn.ID = locationID(a.header.Get("Location"), base, s)
	}
	if conn.Etag == "" {
		conn.Etag = etag(a.header.Get("Etag"), s)
	}
	return conn
}

// connectionID returns id if it can be a path segment, which it has to be in later calls, else "".
func connectionID(id string, s scrubber) string {
	if strings.ContainsAny(id, "/:=+") || id == "." || id == ".." {
		return ""
	}
	return s.id(id, maxRequestID)
}

// locationID returns the last part of a Location header's path, "" unless it is a connection's, on the Flow
// Service's own host.
func locationID(location string, base *url.URL, s scrubber) string {
	u, err := url.Parse(location)
	if err != nil || u.Opaque != "" || u.Scheme != "" && u.Host == "" || u.Host != "" && !strings.EqualFold(u.Host, base.Host) {
		return ""
	}
	list, id := path.Split(path.Clean(u.Path))
	if path.Base(list) != "connections" {
		return ""
	}
	return connectionID(id, s)
}

// etag returns t if it can be sent as If-Match later, else "".
func etag(t string, s scrubber) string {
	if len(t) > 256 || !headerSafe(t) || !s.clean(t) {
		return ""
	}
	return t
}

// checkConnection refuses a body that would not arrive as it is meant. Its token comes from Vault,
// where a line break at the end is a common slip.
func checkConnection(conn provision.NewConnection) *provision.CallError {
	if problem := unsendable(conn.AccessToken.Reveal()); problem != "" {
		return refuse(provision.VerdictRejected, "the secret that auth.params.accessToken refers to %s; write it again", problem)
	}
	for _, v := range []string{conn.Name, conn.Description, conn.SpecName, conn.Params.Domain, conn.Params.ClusterID,
		conn.Params.Database, conn.Params.Catalog, conn.ConnectionSpec.ID, conn.ConnectionSpec.Version} {
		if !utf8.ValidString(v) {
			return refuse(provision.VerdictRejected, "a field of the connection is not valid UTF-8")
		}
	}
	return nil
}

// wire is the body of POST /connections.
type wire struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Auth        struct {
		SpecName string `json:"specName"`
		Params   struct {
			Domain      string `json:"domain"`
			ClusterID   string `json:"clusterId"`
			AccessToken string `json:"accessToken"`
			Database    string `json:"database"`
			Catalog     string `json:"catalog,omitempty"`
		} `json:"params"`
	} `json:"auth"`
	ConnectionSpec provision.ConnectionSpec `json:"connectionSpec"`
}

func wireConnection(conn provision.NewConnection) wire {
	w := wire{Name: conn.Name, Description: conn.Description, ConnectionSpec: conn.ConnectionSpec}
	w.Auth.SpecName = conn.SpecName
	p := &w.Auth.Params
	p.Domain, p.ClusterID = conn.Params.Domain, conn.Params.ClusterID
	p.AccessToken = conn.AccessToken.Reveal()
	p.Database, p.Catalog = conn.Params.Database, conn.Params.Catalog
	return w
}
