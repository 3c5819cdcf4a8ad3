package doctor

import "github.com/prometheus/client_golang/prometheus"

// metric adds up the values of a metric under a label value, or all of them for "".
func metric(from prometheus.Gatherer, name, label string) (sum float64) {
	families, err := from.Gather()
	if err != nil {
		return 0
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			wanted := label == ""
			for _, l := range m.GetLabel() {
				wanted = wanted || l.GetValue() == label
			}
			if wanted {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
