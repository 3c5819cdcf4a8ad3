// Package flow is the client of Adobe's Flow Service and of IMS, its token service. It implements
// provision.Connections.
//
// The Flow Service has no idempotency key, so the package's first duty is that one Create is at most
// one POST, and that its error says truthfully whether that POST can have made a connection:
//
//   - Create has a transport of its own: HTTP/1.1, a new connection for every POST, no redirects, a
//     body that can't be rewound. Nothing in net/http can then send a POST twice.
//   - Each of these connections has a fence. It refuses to write once the POST's time is over, also to a
//     process that was frozen meanwhile, and it counts what was written: an error means
//     VerdictNotSent only if not one byte of the request can have left.
//   - Every HTTP status has a written verdict (verdict.go), and so has every code of the Flow Service
//     that matters (codes.go). What is not listed is unknown.
//
// Calls that are safe to repeat (listing, fetching a token) are repeated here and nowhere else.
//
// Whatever upstream says is scrubbed of the secrets of its call before it gets into an error; answers
// to listings may hold credentials and are never logged.
package flow
