package doctor

import "strings"

// Peer names the settings that decide how a server is reached by TLS.
type Peer struct {
	URL  string // where it is
	CA   string // whom to trust
	Cert string // what to show; empty where nothing can be shown
	Name string // for whom its certificate must be; empty where that is the URL's host

	First string // has TLS begin before the server has greeted; empty where that is always so
}

// The servers that a worker speaks to.
var (
	NATSServer  = Peer{URL: "NATS_URL", CA: "NATS_CA", Cert: "NATS_CERT and NATS_KEY", First: "NATS_TLS_FIRST"}
	vaultServer = Peer{URL: "VAULT_ADDR", CA: "VAULT_CACERT", Cert: "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY", Name: "VAULT_TLS_SERVER_NAME"}
	flowServer  = Peer{URL: "FLOW_URL", CA: "SSL_CERT_FILE (of a proxy that reads along, such as HTTPS_PROXY's)"}
	imsServer   = Peer{URL: "IMS_URL", CA: flowServer.CA}
)

// Remedy says what to change after TLS with the server failed with err; empty where err is of something
// else. The errors of most clients are only text by the time they get here, so it goes by Go's own words.
func (p Peer) Remedy(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, c := range p.causes() {
		for _, sign := range c.signs {
			if strings.Contains(text, sign) {
				return c.remedy
			}
		}
	}
	return ""
}

// cause is one way in which TLS fails. The first of whose signs is found counts.
type cause struct {
	signs  []string
	remedy string
}

func (p Peer) causes() []cause {
	all := append(p.ofClient(), []cause{
		{[]string{"first record does not look like a TLS handshake"}, p.noTLS()},
		{[]string{"signed by unknown authority", "certificate is not trusted"},
			"set " + p.CA + " to the PEM file of the authority that signed the server's certificate"},
		{[]string{"certificate has expired or is not yet valid"},
			"renew the server's certificate; if it is in date, set this machine's clock"},
		{[]string{"certificate is valid for", "certificate is not valid for any names", "cannot validate certificate for", "doesn't contain any IP SANs"},
			p.otherName()},
		{[]string{"server gave HTTP response to HTTPS client", "secure connection not available"},
			p.noTLS()},
		{[]string{"Client sent an HTTP request to an HTTPS server", "malformed HTTP response", "secure connection required"},
			"the server wants TLS at this port: let " + p.URL + " begin with " + p.scheme()},
	}...)
	if p.First != "" {
		all = append(all, cause{[]string{"malformed HTTP", "nats: invalid websocket connection", "expected 'INFO' protocol"},
			"let " + p.URL + " begin with ws:// or wss:// for a port of the server's websocket block, with nats:// or tls:// for its ordinary one"})
	}
	if p.Cert != "" { // the alert may come too late to be read
		all = append(all, cause{[]string{"EOF", "connection reset by peer", "broken pipe"},
			"the server ended the connection and its log says why" + p.silent() + "; if it wants a client certificate, set " + p.Cert})
	}
	return all
}

func (p Peer) noTLS() string {
	without := "the server speaks no TLS at this port: correct " + p.URL + ", or switch TLS on at the server"
	if p.First == "" {
		return without
	}
	return "if the server greets first (no handshake_first), leave " + p.First + " out; else " + without
}

// silent says what a server may wait for that ends a connection without a word.
func (p Peer) silent() string {
	if p.First == "" {
		return ""
	}
	return "; if it wants TLS at once (handshake_first), set " + p.First + "=true"
}

// ofClient lists what a server says of the client's certificate, by an alert.
func (p Peer) ofClient() []cause {
	if p.Cert == "" {
		return nil
	}
	return []cause{
		{[]string{"tls: certificate required", "tls: handshake failure"},
			"the server wants a client certificate: set " + p.Cert},
		{[]string{"remote error: tls: expired certificate"},
			"the client certificate has expired: renew what " + p.Cert + " name"},
		{[]string{"remote error: tls: bad certificate", "remote error: tls: unknown certificate", "remote error: tls: unsupported certificate"},
			"the server refuses the client certificate, or misses one: let " + p.Cert + " name one of an authority that it trusts"},
	}
}

func (p Peer) otherName() string {
	if p.Name != "" {
		return "let " + p.URL + " name a host that the server's certificate is for, or set " + p.Name + " to one"
	}
	return "let " + p.URL + " name a host that the server's certificate is for, or have one issued for this host"
}

func (p Peer) scheme() string {
	if p.URL == NATSServer.URL {
		return "tls://"
	}
	return "https://"
}
