// Package browser looks at the worker's status page with a real browser: Chromium, driven over its own
// protocol. What is looked at is "worker demo", as a process, with requests submitted by "worker submit".
//
// It is a module of its own, so that the worker's go.mod does not name what drives browsers. Run it with
//
//	cd test/browser && go test ./...
//
// It needs a Chromium or Chrome: the one that FLOW_WORKER_BROWSER names, or one on the PATH; without one
// every test is skipped. FLOW_WORKER_BIN names a worker that was built before, FLOW_WORKER_CI_OUT a
// folder for the screenshots.
package browser
