package copytree_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/copytree"
	"github.com/berth-storage/berth/internal/copytree/treetest"
)

// BenchmarkCopy copies a tree of 5,000 names, in turns with cp -a.
func BenchmarkCopy(b *testing.B) {
	top := b.TempDir()
	from := mkdir(b, top, "from")
	treetest.Make(b, from, 5000)
	ratio(b, top, from, copytree.ShareNever, "--reflink=never")
}

// ratio reports the median time of a copy divided by that of cp.
func ratio(b *testing.B, top, from string, sharing copytree.Sharing, reflink string) {
	var ours, theirs []float64
	for b.Loop() {
		to := filepath.Join(top, "to")
		ours = append(ours, took(b, to, func() error {
			_, err := copytree.Copy(b.Context(), open(b, from), open(b, to), copytree.Options{Sharing: sharing})
			return err
		}))
		theirs = append(theirs, took(b, to, func() error {
			return exec.Command("sh", "-ec", `cp -a "$1" "$2/." "$3"; sync -f "$3"`, "sh", reflink, from, to).Run()
		}))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(ours[len(ours)/2]/theirs[len(theirs)/2], "copy_ratio_vs_cp")
	b.ReportMetric(ours[len(ours)/2]*1000, "ms/copy")
}

func took(b *testing.B, to string, copies func() error) float64 {
	b.StopTimer()
	defer b.StartTimer()
	if err := os.Mkdir(to, 0o755); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := copies(); err != nil {
		b.Fatal(err)
	}
	seconds := time.Since(start).Seconds()
	if err := os.RemoveAll(to); err != nil {
		b.Fatal(err)
	}
	return seconds
}
