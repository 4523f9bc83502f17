package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// metric is a number that is measured, and the bar that it has to reach.
type metric struct {
	name  string
	bar   float64 // 0: there is none
	least bool    // the bar is the least that is wanted, not the most
}

// metrics are all numbers, in the order of the table.
var metrics = []metric{
	{name: "bind_per_s"},
	{name: "noop_bind_per_s"},
	{name: "bind_ratio_vs_noop", bar: 0.9, least: true},
	{name: "provision_step_p50_ms", bar: 10},
	{name: "provision_step_p99_ms"},
	{name: "volume_create_p50_ms"},
	{name: "bind_others_cpu_percent"}, // of the processors: how disturbed those numbers are
	{name: "delete_per_s"},
	{name: "noop_delete_per_s"},
	{name: "single_claim_bound_ms"},
	{name: "expand_done_p50_ms"}, // subvolumes of btrfs
	{name: "expand_done_p50_ms_ext4"},
	{name: "expand_done_p50_ms_zfs_fuse"},
	{name: "expand_done_p50_ms_xfs"}, // this and the next one in the test VM
	{name: "expand_done_p50_ms_openzfs"},
	{name: "snapshot_ready_p50_ms"},
	{name: "snapshot_ready_p50_ms_ext4"},
	{name: "snapshot_ready_p50_ms_zfs_fuse"},
	{name: "snapshot_ready_p50_ms_xfs"},
	{name: "snapshot_ready_p50_ms_openzfs"},
	{name: "clone_bound_p50_ms"},
	{name: "clone_bound_p50_ms_ext4"},
	{name: "clone_bound_p50_ms_zfs_fuse"},
	{name: "clone_bound_p50_ms_xfs"},
	{name: "clone_bound_p50_ms_openzfs"},
	{name: "empty_bound_p50_ms"}, // an empty claim in the same turns
	{name: "empty_bound_p50_ms_ext4"},
	{name: "empty_bound_p50_ms_zfs_fuse"},
	{name: "empty_bound_p50_ms_xfs"},
	{name: "empty_bound_p50_ms_openzfs"},
	{name: "clone_bound_p50_ms_10g"}, // subvolumes of btrfs
	{name: "clone_ratio_10g_vs_empty", bar: 1.3},
	{name: "create_p50_ms_10"},
	{name: "create_p50_ms_5000"},
	{name: "create_p50_ratio_5000_vs_10", bar: 1.5},
	{name: "ssh_command_p50_ms"},
	{name: "kernel_publish_p50_ms_10"},
	{name: "kernel_publish_p50_ms_1000"},
	{name: "kernel_publish_p50_ratio_1000_vs_10", bar: 1.5},
	{name: "kernel_withdraw_p50_ratio_1000_vs_10"},
	{name: "quota_create_p50_ms"},
	{name: "quota_overhead_ratio", bar: 1.3}, // quotas of xfs, against the same without
	{name: "zfs_create_p50_ms"},
	{name: "zfs_create_overhead_ratio", bar: 1.5}, // against zfs create alone, with the same properties
	{name: "zfs_create_ratio_500_vs_10", bar: 2},
	{name: "subdir_delete_pv_gone_ms_200k_files", bar: 1000},
	{name: "purge_files_per_s"}, // of deleted volumes on a share
	{name: "purge_ratio_vs_rm", bar: 0.8, least: true},
	{name: "purge_ratio_vs_rm_1000", bar: 0.8, least: true}, // of smaller ones
	{name: "purge_empty_ms"},                                // what a purge costs whatever is in the volume
	{name: "rm_empty_ms"},
	{name: "purge_file_us"}, // and for each file
	{name: "rm_file_us"},
	{name: "restart_5000_s", bar: 20},
	{name: "rss_mib_1000", bar: 64},
}

// results are what was measured, by name.
type results map[string]float64

// set keeps a result with four significant digits: more would be noise.
func (r results) set(name string, value float64) {
	if !slices.ContainsFunc(metrics, func(m metric) bool { return m.name == name }) {
		panic("no metric is named " + name)
	}
	if value == 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		r[name] = value
		return
	}
	unit := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(value))))
	r[name] = math.Round(value*unit) / unit
}

// verdict says whether a value reaches the metric's bar: "", "ok" or "missed".
func (m metric) verdict(value float64) string {
	switch {
	case m.bar == 0:
		return ""
	case m.least && value >= m.bar, !m.least && value <= m.bar:
		return "ok"
	default: // NaN, too
		return "missed"
	}
}

func (m metric) barText() string {
	switch {
	case m.bar == 0:
		return ""
	case m.least:
		return fmt.Sprintf(">= %g", m.bar)
	default:
		return fmt.Sprintf("<= %g", m.bar)
	}
}

// table prints what was measured.
func (r results) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NAME\tVALUE\tBAR\t\n")
	for _, m := range metrics {
		if value, measured := r[m.name]; measured {
			fmt.Fprintf(w, "%s\t%g\t%s\t%s\n", m.name, value, m.barText(), m.verdict(value))
		}
	}
	return w.Flush()
}

// write writes the results as one flat JSON object. Those of a quick run say so,
// by "quick": they are of smaller numbers than their names tell.
func (r results) write(file string, quick bool) error {
	all := maps.Clone(r)
	if quick {
		all["quick"] = 1
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// median of values, which may not be empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}
