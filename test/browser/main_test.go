package browser

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Set by TestMain.
var (
	worker  string          // the program
	browser context.Context // one Chromium for all tests; each has windows of its own
	shots   string          // where screenshots go
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "browser-test-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if worker = os.Getenv("FLOW_WORKER_BIN"); worker == "" {
		worker = filepath.Join(dir, "worker")
		build := exec.Command("go", "build", "-o", worker, "./cmd/worker")
		build.Dir, build.Stderr = "../..", os.Stderr
		if err := build.Run(); err != nil {
			return 1, fmt.Errorf("the worker can't be built: %w", err)
		}
	}
	if shots = os.Getenv("FLOW_WORKER_CI_OUT"); shots == "" {
		shots = dir
	}
	program := chromium()
	if program == "" {
		return m.Run(), nil // every test skips itself
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.NoSandbox, // CI runs as root, and there is nothing but our own pages
		chromedp.Flag("hide-scrollbars", true))
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	defer stopAllocator()
	var stop context.CancelFunc
	browser, stop = chromedp.NewContext(allocator)
	defer stop()
	if err := chromedp.Do(browser); err != nil {
		return 1, fmt.Errorf("%s does not start: %w", program, err)
	}
	return m.Run(), nil
}

// chromium returns the browser's path, empty if there is none.
func chromium() string {
	if named := os.Getenv("FLOW_WORKER_BROWSER"); named != "" {
		return named
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// scan sends a program's lines until it ends.
func scan(r *bufio.Scanner) <-chan string {
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for r.Scan() {
			select {
			case lines <- r.Text():
			default: // nobody reads any more
			}
		}
	}()
	return lines
}

// patience is how long anything may take.
const patience = 30 * time.Second
