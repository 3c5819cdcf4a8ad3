//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// target is one line of the report: what is wanted, and what was measured.
type target struct {
	load                 load
	what, want, measured string
	met                  bool
}

// atLeast, atMost and within compare the median of some runs with a target, each compares every one of them.
func (b *bench) atLeast(l load, what string, least float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("≥ %g", least), values, median(values) >= least)
}

func (b *bench) atMost(l load, what string, most float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("≤ %.4g", most), values, median(values) <= most)
}

func (b *bench) within(l load, what string, least, most float64, values []float64) {
	b.judge(l, what, fmt.Sprintf("%g to %g", least, most), values, median(values) >= least && median(values) <= most)
}

func (b *bench) each(l load, what string, most float64, values []float64) {
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
	b.files["report.md"] = b.markdown()
	_, err := io.WriteString(b.out, b.files["report.md"])
	if b.folder != "" {
		for name, text := range b.files {
			err = errors.Join(err, os.WriteFile(filepath.Join(b.folder, name), []byte(text), 0o644))
		}
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
		fmt.Fprintf(&s, "\nNot as it should be: %s.\n", r)
	}
	return s.String()
}

// curve is one line of a chart.
type curve struct {
	name string
	x, y []float64
}

var colours = []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f"}

// chart draws curves as SVG, over a logarithmic x axis; the y axis begins at 0.
func chart(title, xLabel, yLabel string, curves []curve) string {
	const left, right, top, bottom = 70.0, 700.0, 40.0, 360.0
	var xs []float64
	var maxY float64
	for _, c := range curves {
		xs, maxY = append(xs, c.x...), max(maxY, slices.Max(c.y))
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	step := math.Pow(10, math.Floor(math.Log10(maxY)))
	if maxY/step < 5 {
		step /= 2
	}
	maxY = step * math.Ceil(maxY/step)
	atX := func(x float64) float64 {
		return left + (right-left)*math.Log(x/xs[0])/math.Log(xs[len(xs)-1]/xs[0])
	}
	atY := func(y float64) float64 { return bottom - (bottom-top)*y/maxY }

	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 420" font-family="sans-serif" font-size="12">`+
		`<rect width="720" height="420" fill="white"/><text x="%g" y="20" font-size="15">%s</text>`+"\n", left, title)
	for i := range int(math.Round(maxY/step)) + 1 {
		y := float64(i) * step
		fmt.Fprintf(&s, `<path d="M%g %.1fH%g" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%g</text>`+"\n", left, atY(y), right, left-6, atY(y)+4, y)
	}
	for _, x := range xs {
		fmt.Fprintf(&s, `<path d="M%.1f %gv5" stroke="black"/><text x="%.1f" y="%g" text-anchor="middle">%.0f</text>`+"\n", atX(x), bottom, atX(x), bottom+18, x)
	}
	fmt.Fprintf(&s, `<text x="%g" y="%g" text-anchor="middle">%s</text>`+"\n", (left+right)/2, bottom+40, xLabel)
	fmt.Fprintf(&s, `<text transform="translate(18 %g) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+bottom)/2, yLabel)
	for i, c := range curves {
		colour := colours[i%len(colours)]
		fmt.Fprintf(&s, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, colour)
		for j := range c.x {
			fmt.Fprintf(&s, "%.1f,%.1f ", atX(c.x[j]), atY(c.y[j]))
		}
		fmt.Fprintf(&s, `"/><text x="%g" y="%g" fill="%s">%s</text>`+"\n", left+12, top+16*float64(i+1), colour, c.name)
	}
	return s.String() + "</svg>\n"
}

// curves measures contenders over loads that differ in their slots, once each.
func (b *bench) curves(ctx context.Context, loads []load, y func(figures) float64, suffix string, contenders ...contender) []curve {
	out := make([]curve, len(contenders))
	for _, l := range loads {
		for i, c := range contenders {
			out[i].name = c.name + suffix
			out[i].x, out[i].y = append(out[i].x, float64(l.slots)), append(out[i].y, y(b.measure(ctx, c, l)))
		}
	}
	return out
}

func (b *bench) drawCharts(ctx context.Context) {
	var loads []load
	for _, n := range []int{8, 16, 32, 64, 128, 256} {
		loads = append(loads, load{requests: b.size(6000, 3000), tenants: 3, slots: n})
	}
	b.files["throughput.svg"] = chart("Throughput, the Flow Service answers at once", "slots", "requests per second", b.curves(ctx, loads, rate, "", b.everyone()...))

	var memory []curve
	for _, http2 := range []bool{false, true} {
		loads = nil
		for _, n := range []int{125, 250, 500, 1000, 2000} {
			loads = append(loads, load{requests: 3 * n, tenants: 3, slots: n, latency: 2 * time.Second, http2: http2})
		}
		memory = append(memory, b.curves(ctx, loads, peak, map[bool]string{false: ", HTTP/1.1", true: ", HTTP/2"}[http2], theWorker, theBaseline)...)
	}
	b.files["memory.svg"] = chart("Peak memory, the Flow Service takes 2 s", "requests in flight", "MiB", memory)

	waits := curve{name: fmt.Sprintf("the longest of %d", singles)}
	for _, n := range []int{1000, 5000, 20_000, b.size(100_000, 50_000)} {
		w, _ := b.waitBehind(ctx, load{requests: n, tenants: 1, slots: 64, latency: 500 * time.Millisecond})
		waits.x, waits.y = append(waits.x, float64(n)), append(waits.y, quantile(w, 1))
	}
	b.files["waiting.svg"] = chart("A single request behind another tenant's backlog, the Flow Service takes 500 ms", "requests queued before it", "seconds until its result", []curve{waits})
}
