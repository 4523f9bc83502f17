package main

import (
	"bufio"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// histogram is a Prometheus histogram: how many observations were not above each
// bound. The last bound is infinite.
type histogram []bucket

type bucket struct {
	bound float64
	count float64
}

// parseHistogram finds the histogram with that name, and with those labels
// (`step="provision"`) among its own, in Prometheus' text format. One that is
// not there has not observed anything yet.
func parseHistogram(text, name string, labels ...string) (histogram, error) {
	var h histogram
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		rest, found := strings.CutPrefix(lines.Text(), name+"_bucket{")
		if !found || slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(rest, label) }) {
			continue
		}
		_, after, _ := strings.Cut(rest, `le="`)
		boundText, after, _ := strings.Cut(after, `"`)
		_, countText, _ := strings.Cut(after, "} ")
		bound, err := strconv.ParseFloat(boundText, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		count, err := strconv.ParseFloat(countText, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		h = append(h, bucket{bound, count})
	}
	slices.SortFunc(h, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	return h, lines.Err()
}

// add gives the observations of h and other, both with the same bounds; times -1
// takes those of other away.
func (h histogram) add(other histogram, times float64) histogram {
	if len(h) == 0 {
		h = make(histogram, len(other))
		for i, b := range other {
			h[i].bound = b.bound
		}
	}
	sum := slices.Clone(h)
	for i, b := range other {
		sum[i].count += times * b.count
	}
	return sum
}

// total is the number of observations.
func (h histogram) total() float64 {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].count
}

// quantile estimates the q-quantile as Prometheus' histogram_quantile does: as if
// the observations in a bucket were spread evenly. Above the last finite bound
// nothing is known but that bound. Without observations it is NaN.
func (h histogram) quantile(q float64) float64 {
	rank := q * h.total()
	if h.total() == 0 {
		return math.NaN()
	}
	i := slices.IndexFunc(h, func(b bucket) bool { return b.count >= rank })
	low, below := 0.0, 0.0
	if i > 0 {
		low, below = h[i-1].bound, h[i-1].count
	}
	if math.IsInf(h[i].bound, 1) || h[i].count == below {
		return low
	}
	return low + (h[i].bound-low)*(rank-below)/(h[i].count-below)
}
