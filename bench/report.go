package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// target is one line of the report: what is wanted, and what was measured.
type target struct {
	load     load
	what     string
	want     string
	measured string
	met      bool
}

// atLeast and atMost compare the median of some runs with a target, all compares each of them.
func (b *bench) atLeast(l load, what string, least float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("≥ %g", least), values, median(values) >= least)
}

func (b *bench) atMost(l load, what string, most float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("≤ %.4g", most), values, median(values) <= most)
}

func (b *bench) all(l load, what string, most float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("each ≤ %g", most), values, quantile(values, 1) <= most)
}

func (b *bench) judge(l load, what, want string, values []float64, met bool) {
	t := target{l, what, want, spread(values, 3), met}
	b.targets = append(b.targets, t)
	b.progress("%v: %s: %s, want %s", l, what, t.measured, want)
}

// spread shows a median, and the least and the greatest value where there are several.
func spread(values []float64, digits int) string {
	s := number(median(values), digits)
	if len(values) > 1 {
		s += fmt.Sprintf(" (%s–%s)", number(quantile(values, 0), digits), number(quantile(values, 1), digits))
	}
	return s
}

// number shows a number with at most some digits behind the point, fewer for larger ones.
func number(v float64, digits int) string {
	for limit := 10.0; digits > 0 && v >= limit; limit *= 10 {
		digits--
	}
	return fmt.Sprintf("%.*f", digits, v)
}

// report prints what was measured, and keeps it in the folder, if there is one.
func (b *bench) report() error {
	text := b.markdown()
	_, err := io.WriteString(b.out, text)
	if b.folder == "" {
		return err
	}
	files := map[string]string{"report.md": text}
	for name, svg := range b.charts {
		files[name] = svg
	}
	err = errors.Join(err, os.MkdirAll(b.folder, 0o755))
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(b.folder, name), []byte(text), 0o644))
	}
	return err
}

func (b *bench) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d cores, %s, %s. Medians, in brackets the least and the greatest of the runs. Ratios are those of runs of the same round.\n", runtime.NumCPU(), runtime.Version(), time.Now().Format(time.DateOnly))
	if len(b.targets) > 0 {
		s.WriteString("\n| load | target | wanted | measured | |\n|---|---|---|---|---|\n")
	}
	for _, t := range b.targets {
		fmt.Fprintf(&s, "| %v | %s | %s | %s | %s |\n", t.load, t.what, t.want, t.measured, map[bool]string{true: "met", false: "**missed**"}[t.met])
	}
	if len(b.outcomes) > 0 {
		s.WriteString("\n| load | program | requests/s | CPU, ms a request | peak MiB | slots busy | most POSTs at a time | longest gap, s |\n|---|---|---|---|---|---|---|---|\n")
	}
	for _, o := range b.outcomes {
		fmt.Fprintf(&s, "| %v | %s |", o.load, o.contender.name)
		for _, of := range []func(figures) float64{rate, cpu, peak, busy, most, gap} {
			fmt.Fprintf(&s, " %s |", spread(o.values(of), 2))
		}
		s.WriteString("\n")
	}
	for _, r := range b.remarks {
		fmt.Fprintf(&s, "\n- %s", r)
	}
	if len(b.remarks) > 0 {
		s.WriteString("\n")
	}
	return s.String()
}

// profileFor is how long a CPU profile runs, in seconds.
const profileFor = 3

// profile begins to take profiles of the worker, where they are asked for. The function that it returns waits for
// the CPU profile, takes one of allocations and stores both.
func (b *bench) profile(w *world) (finish func()) {
	if !b.profiles || b.folder == "" || len(w.contender) != 1 || !w.isWorker {
		return func() {}
	}
	name := filepath.Join(b.folder, strings.NewReplacer(" ", "-", ",", "", "/", "").Replace(w.load.String()))
	keep := func(kind, query string) {
		if err := w.download("http://"+w.status+"/debug/pprof/"+query, name+"-"+kind+".pprof"); err != nil {
			b.progress("no profile: %v", err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		keep("cpu", fmt.Sprintf("profile?seconds=%d", profileFor))
	}()
	return func() {
		<-done
		keep("allocs", "allocs")
	}
}

// download stores what is at a URL.
func (w *world) download(url, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*profileFor*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}
