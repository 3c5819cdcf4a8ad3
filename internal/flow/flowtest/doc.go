// Package flowtest emulates Adobe's Flow Service and its IMS token endpoint, for tests and for
// trying things out without an Adobe organization. It keeps connections in memory, answers with the
// shapes that the public documentation shows, and misbehaves on request: see Fault.
//
// An Emulator is an http.Handler. Flow Service is served below /data/foundation/flowservice and,
// for short, at the root; IMS at /ims/token/v3; what only an emulator has at /_emulator/ (connections,
// requests, faults, reset). The latter asks for no credentials: bind it to a loopback address.
//
// # Documented by Adobe, and reproduced
//
//   - The required headers and the gateway's error codes for them; the {error_code, message} shape,
//     its code as a string (a fault can make it a number: both are documented).
//   - POST /connections: 201 with Location and only {id, etag}; no idempotency key, no client-chosen
//     id, no error for a name that is taken. A repeated POST makes a second connection.
//   - GET /connections/{id} wraps its connection in items; a 404 has the FLOW-1439 body.
//   - Lists: property filters (several mean AND, a comma means OR, quotes are optional), orderby,
//     limit, count, a relative next link with a continuation token, newest first; the error codes
//     for wrong fields, operators, parameters and values.
//   - PATCH wants If-Match with the etag's inner quotes: missing 1403-400, anything but the current
//     one 1404-412. "replace" on /auth/params replaces all params.
//   - DELETE: 204, then 404. GET test: {result}. GET explore: root and table. Drafts and publishing.
//   - IMS: client credentials, comma-separated scopes, expires_in in seconds.
//
// # Inferred, and so only plausible
//
//   - The bodies of most errors of POST /connections: their codes and texts are in the catalogue, the
//     pairing is a guess. So is FLOW- (not CONNECTOR-) before 1304 and 1308, the text of a stopped
//     cluster, and every status and body of an IMS refusal.
//   - The order in which headers are checked, and that limits above 100 are lowered, not refused.
//   - A comma always separates values, even inside quotes; equality minds case; text is ordered by
//     bytes. These are the strictest readings: a client that bears them bears the others.
//   - PATCH accepts only /name, /description and /auth/params as a whole, as the tutorials do.
//   - Secret params are answered as "xxxx", and a filter sees them as that too.
//   - domain, clusterId, accessToken and database are mandatory, catalog is not, other params are kept.
//
// # Not known, so choose with faults and Config
//
//   - Whether and how the service limits rates (EffectRateLimit), how long its lists lag
//     (Config.ListLag, EffectListLag), how long a connection stays "initializing"
//     (EffectInitializing; without it a connection is enabled at once), its time limits.
//   - What a create with bad credentials or a stopped cluster answers, and how long it takes. No
//     Databricks is contacted here: a connection works unless a fault says otherwise.
//   - The state of a draft ("draft" here), and whether a draft skips the credential check.
//   - Whether it stores ids, names and descriptions as they were sent (EffectStore, EffectTruncate), what
//     its lists leave out (EffectOmit), whether they are in the order that was asked for
//     (EffectUnordered) and take every filter (EffectRefuseQuery, EffectFoldNames), which states there
//     are (EffectState), and whether names are unique after all (EffectUniqueNames). The habits are
//     independent of each other; see Fault.
//   - Whether "+" in a query means a blank: both are accepted, Config.LiteralPlus refuses to.
//
// # Not emulated
//
// Source and target connections, flows, runs, flow specs, configs and POST /connections/search:
// these answer 404 or 405. Access control, entitlements and quotas exist only as faults.
package flowtest
