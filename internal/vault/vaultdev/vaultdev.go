// Package vaultdev runs the real Vault, built from test/vaultdev, for tests.
package vaultdev

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Vault is a running server. Its methods are safe for concurrent use.
type Vault struct {
	Address   string // such as "http://127.0.0.1:8200"
	RootToken string
	UnsealKey string

	cmd   *exec.Cmd
	stdin io.Closer // its end ends the server
	log   lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Environment names the variable with the binary's path.
const Environment = "FLOW_WORKER_VAULTDEV"

// Start runs the binary that the environment variable Environment names. The server keeps everything
// in memory and outlives ctx; it ends with Stop, or when this process does.
func Start(ctx context.Context) (*Vault, error) {
	binary := os.Getenv(Environment)
	if binary == "" {
		return nil, errors.New("vaultdev: " + Environment + " names no binary; build one with go build in test/vaultdev")
	}
	v := &Vault{cmd: exec.CommandContext(context.WithoutCancel(ctx), binary)}
	v.cmd.Stderr = &v.log
	stdin, err := v.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("vaultdev: %w", err)
	}
	v.stdin = stdin
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("vaultdev: %w", err)
	}
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("vaultdev: %w", err)
	}
	line := bufio.NewScanner(stdout) // which takes no line that is longer than its buffer
	line.Scan()
	if err := json.Unmarshal(line.Bytes(), v); err != nil {
		return nil, errors.Join(fmt.Errorf("vaultdev: said %q: %w", line.Text(), err), v.Stop())
	}
	return v, nil
}

// Stop ends the server and waits for that. The error of a server that failed holds its log.
func (v *Vault) Stop() error {
	_ = v.stdin.Close() // it may be gone already
	if err := v.cmd.Wait(); err != nil {
		return fmt.Errorf("vaultdev: %w: %s", err, v.Log())
	}
	return nil
}

// Log returns what the server has logged so far.
func (v *Vault) Log() string {
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	return v.log.b.String()
}

// Answer is what Vault says. Data or Auth is nil where it has none.
type Answer struct{ Data, Auth map[string]any }

const (
	maxAnswer   = 1 << 20 // bytes
	callTimeout = time.Minute
)

// Call sends a request with the root token. The path comes without "/v1/". Anything but a 2xx is an
// error, which may quote the answer.
func (v *Vault) Call(ctx context.Context, method, path string, body any) (Answer, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, v.Address+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("X-Vault-Token", v.RootToken)
	client := http.Client{Timeout: callTimeout}
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w: %s", method, path, err, text)
	}
	var answer Answer
	if len(text) > 0 {
		err = json.Unmarshal(text, &answer)
	}
	return answer, err
}

// AwaitEngine returns when a KV engine that was mounted a moment ago serves: a new version 2 engine says
// 400 at first. Its error is ctx's.
func (v *Vault) AwaitEngine(ctx context.Context, mount string) error {
	for {
		if _, err := v.Call(ctx, http.MethodGet, mount+"/config", nil); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
