package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	r := results{}
	r.set("rss_mib_1000", 64.004)
	r.set("bind_ratio_vs_noop", 0.89994)
	r.set("provision_step_p50_ms", 12.3456)
	r.set("restart_5000_s", math.NaN())
	r.set("bind_per_s", 41)
	var out bytes.Buffer
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	want := `NAME                   VALUE   BAR     
bind_per_s             41              
bind_ratio_vs_noop     0.8999  >= 0.9  missed
provision_step_p50_ms  12.35   <= 10   missed
restart_5000_s         NaN     <= 20   missed
rss_mib_1000           64      <= 64   ok
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "bench.json")
	if err := (results{"bind_per_s": 41}).write(file, true); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]float64
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"bind_per_s": 41, "quick": 1}, got); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %g, want %g", test.values, got, test.want)
		}
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose("rss,create")
	if err != nil || len(chosen) != 2 || chosen[0].name != "create" || chosen[1].name != "rss" {
		t.Errorf("choose: %v, %v; want create, then rss", chosen, err)
	}
	if all, err := choose(""); err != nil || len(all) != len(phases) {
		t.Errorf("choose of nothing: %v, %v; want all", all, err)
	}
	if _, err := choose("bnid"); err == nil {
		t.Error("an unknown phase is no error")
	}
}

const exposition = `# HELP step_seconds Time.
# TYPE step_seconds histogram
step_seconds_bucket{result="error",step="provision",le="0.01"} 7
step_seconds_bucket{result="error",step="provision",le="+Inf"} 7
step_seconds_bucket{result="ok",step="provision",le="0.01"} 10
step_seconds_bucket{result="ok",step="provision",le="0.02"} 30
step_seconds_bucket{result="ok",step="provision",le="+Inf"} 40
step_seconds_sum{result="ok",step="provision"} 1.5
step_seconds_count{result="ok",step="provision"} 40
other_step_seconds_bucket{result="ok",step="provision",le="+Inf"} 99
`

func TestHistogram(t *testing.T) {
	h, err := parseHistogram(exposition, "step_seconds", `step="provision"`, `result="ok"`)
	if err != nil {
		t.Fatal(err)
	}
	want := histogram{{0.01, 10}, {0.02, 30}, {math.Inf(1), 40}}
	if diff := cmp.Diff(want, h, cmp.AllowUnexported(bucket{})); diff != "" {
		t.Fatalf("parsed (-want +got):\n%s", diff)
	}
	for q, want := range map[float64]float64{
		0.125: 0.005, // half of the first bucket
		0.25:  0.01,  // its end
		0.5:   0.015, // half of the second
		0.99:  0.02,  // beyond the last bound nothing is known
	} {
		if got := h.quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile(%g) = %g, want %g", q, got, want)
		}
	}
	if got := h.add(h, -1).quantile(0.5); !math.IsNaN(got) {
		t.Errorf("a quantile of no observations is %g, want NaN", got)
	}
	if got := (histogram{}).add(h, 1).total(); got != 40 {
		t.Errorf("nothing and 40 observations are %g", got)
	}
}

func TestTicksBelow(t *testing.T) {
	now, err := readCPU()
	if err != nil {
		t.Fatal(err)
	}
	if now.bench < 0 || now.all < now.bench {
		t.Errorf("this program had %d ticks of the machine's %d", now.bench, now.all)
	}
	if _, err := othersSince(cpuTime{at: now.at.Add(-1e9)}); err != nil {
		t.Error(err)
	}
}
