package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

// series is one curve of a chart.
type series struct {
	name string
	x, y []float64
}

var curveColours = []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f"}

// chart draws curves over a logarithmic x axis; the y axis begins at 0.
func chart(title, xLabel, yLabel string, curves []series) string {
	const width, height, left, right, top, bottom = 720.0, 420.0, 70.0, 20.0, 40.0, 60.0
	xs := map[float64]bool{}
	minX, maxX, maxY := math.Inf(1), 0.0, 0.0
	for _, c := range curves {
		for i := range c.x {
			xs[c.x[i]] = true
			minX, maxX, maxY = min(minX, c.x[i]), max(maxX, c.x[i]), max(maxY, c.y[i])
		}
	}
	step := niceStep(maxY / 5)
	maxY = step * math.Ceil(maxY/step)
	atX := func(x float64) float64 {
		if maxX == minX {
			return left
		}
		return left + (width-left-right)*math.Log(x/minX)/math.Log(maxX/minX)
	}
	atY := func(y float64) float64 { return height - bottom - (height-top-bottom)*y/maxY }

	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="white"/><text x="%g" y="20" font-size="15">%s</text>`+"\n", left, title)
	for y := 0.0; y <= maxY*1.001; y += step {
		fmt.Fprintf(&s, `<path d="M%g %.1fH%g" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%g</text>`+"\n", left, atY(y), width-right, left-6, atY(y)+4, math.Round(y*1e6)/1e6)
	}
	for x := range xs {
		fmt.Fprintf(&s, `<path d="M%.1f %gv5" stroke="black"/><text x="%.1f" y="%g" text-anchor="middle">%g</text>`+"\n", atX(x), height-bottom, atX(x), height-bottom+18, x)
	}
	fmt.Fprintf(&s, `<text x="%g" y="%g" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-bottom+36, xLabel)
	fmt.Fprintf(&s, `<text transform="translate(18 %g) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, yLabel)
	for i, c := range curves {
		colour := curveColours[i%len(curveColours)]
		var points []string
		for j := range c.x {
			points = append(points, fmt.Sprintf("%.1f,%.1f", atX(c.x[j]), atY(c.y[j])))
		}
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colour)
		fmt.Fprintf(&s, `<text x="%g" y="%g" fill="%s">%s</text>`+"\n", left+12, top+16*float64(i+1), colour, c.name)
	}
	return s.String() + "</svg>\n"
}

// niceStep returns the next larger of 1, 2 and 5 times a power of ten.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}

// curves measures contenders over several loads, once each.
func (b *bench) curves(ctx context.Context, loads []load, x func(load) float64, y func(figures) float64, contenders ...contender) ([]series, error) {
	out := make([]series, len(contenders))
	for _, l := range loads {
		for i, c := range contenders {
			f, err := b.measure(ctx, c, l)
			if err != nil {
				return nil, err
			}
			b.progress("%s, %v: %.0f/s, %.0f MiB", c.name, l, f.rate, f.peak)
			out[i].name = c.name
			out[i].x, out[i].y = append(out[i].x, x(l)), append(out[i].y, y(f))
		}
	}
	return out, nil
}

func (b *bench) drawCharts(ctx context.Context) error {
	slots := func(l load) float64 { return float64(l.slots) }
	var loads []load
	for _, n := range []int{8, 16, 32, 64, 128, 256} {
		loads = append(loads, b.load(load{requests: 4000, tenants: 3, slots: n}))
	}
	curves, err := b.curves(ctx, loads, slots, rate, b.everyone()...)
	if err != nil {
		return err
	}
	b.charts["throughput.svg"] = chart("Throughput, Flow Service answers at once", "slots", "requests per second", curves)

	var memory []series
	for _, http2 := range []bool{false, true} {
		loads = nil
		for _, n := range []int{125, 250, 500, 1000, 2000} {
			loads = append(loads, b.load(load{requests: 3 * n, tenants: 3, slots: n, latency: 2 * time.Second, http2: http2}))
		}
		curves, err := b.curves(ctx, loads, slots, peak, theWorker, theBaseline)
		if err != nil {
			return err
		}
		for _, c := range curves {
			c.name += map[bool]string{false: ", HTTP/1.1", true: ", HTTP/2"}[http2]
			memory = append(memory, c)
		}
	}
	b.charts["memory.svg"] = chart("Peak memory, Flow Service takes 2 s", "requests in flight", "MiB", memory)

	waits := series{name: theWorker.name}
	for _, n := range []int{1000, 5000, 20_000, b.size(100_000, 50_000)} {
		w, _, err := b.waitBehind(ctx, theWorker, b.load(load{requests: n, tenants: 1, slots: 64, latency: 500 * time.Millisecond}))
		if err != nil {
			return err
		}
		waits.x, waits.y = append(waits.x, float64(n)), append(waits.y, median(w))
	}
	b.charts["waiting.svg"] = chart("A single request behind another tenant's backlog, Flow Service takes 500 ms", "requests queued before it", "seconds until its result", []series{waits})
	return nil
}
