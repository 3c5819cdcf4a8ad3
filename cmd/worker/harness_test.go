package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// result is how a command line ended.
type result struct {
	code           int
	stdout, stderr string
}

// worker runs one command line with exactly the given environment.
func worker(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs safeBuffer
	code := run(ctx, args, environ, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// safeBuffer is a bytes.Buffer that several goroutines may use, and that tells of a text in it.
type safeBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	waiting map[string]chan struct{} // :: text → closed once it is in buf
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p)
	for text, found := range b.waiting {
		if strings.Contains(b.buf.String(), text) {
			close(found)
			delete(b.waiting, text)
		}
	}
	return len(p), nil
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// has returns a channel that is closed once text was written. It may be asked for each text once.
func (b *safeBuffer) has(text string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := make(chan struct{})
	if strings.Contains(b.buf.String(), text) {
		close(found)
		return found
	}
	if b.waiting == nil {
		b.waiting = map[string]chan struct{}{}
	}
	b.waiting[text] = found
	return found
}

// await fails the test where text isn't written in time.
func (b *safeBuffer) await(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-b.has(text):
	case <-ctx.Done():
		t.Fatalf("%q was not written; this was:\n%s", text, b.String())
	}
}

// request is the data of a request.
func request(name, token string) string {
	return `{"sandbox":"prod","name":"` + name + `","auth":{"specName":"Access Token Authentication","params":{` +
		`"domain":"https://adb-1.7.azuredatabricks.net","clusterId":"c","accessToken":"` + token + `","database":"d"}},` +
		`"connectionSpec":{"id":"e9d7ec6b-0873-4e57-ad21-b3a7c65e310b","version":"1.0"}}`
}
