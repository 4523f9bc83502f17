package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// PoolContents is what Volumes writes of a pool.
type PoolContents struct {
	Name     string         `json:"name,omitempty"` // in the configuration, if one was given
	Root     string         `json:"root"`
	Identity string         `json:"identity"`
	Advisory string         `json:"advisory,omitempty"` // why the sizes of new volumes are not enforced
	Volumes  []ListedVolume `json:"volumes"`
	Problems []string       `json:"problems"` // with records, directories and limits
	Unknown  []string       `json:"unknown"`  // paths of what no record names
}

// ListedVolume is what Volumes writes of a volume. Sizes are in bytes.
type ListedVolume struct {
	Name       string    `json:"name"`
	Namespace  string    `json:"namespace"` // of the claim
	Claim      string    `json:"claim"`
	ClaimUID   string    `json:"claimUid"`
	State      string    `json:"state"`
	SnapshotOf string    `json:"snapshotOf,omitempty"` // the volume, if it is a snapshot; then the claim is that of the volume
	Created    time.Time `json:"created"`
	Retained   bool      `json:"retained"`         // its data stays when its claim is deleted
	Published  bool      `json:"published"`        // a PersistentVolume of it was seen
	Origin     string    `json:"origin,omitempty"` // the program that made it, if not Berth
	Path       string    `json:"path"`             // of its directory
	ExportPath string    `json:"exportPath"`
	Size       int64     `json:"size"`
	Inodes     int64     `json:"inodes,omitempty"` // the most that it may have
	Limit      string    `json:"limit"`            // what enforces that; "" if nothing does
	Used       *uint64   `json:"used,omitempty"`   // if it is counted
	UsedInodes *uint64   `json:"usedInodes,omitempty"`
}

// Formats of Volumes.
const (
	FormatTable = "table"
	FormatJSON  = "json"
)

// Volumes writes what is in pools, by their records and what lies in their roots. It
// needs no lock, so it works while Berth serves them.
func Volumes(ctx context.Context, pools []config.Pool, format string, out io.Writer) error {
	if err := checkFormat(format); err != nil {
		return err
	}
	all := []PoolContents{}
	for _, p := range pools {
		i, err := inspect(ctx, p)
		if err != nil {
			return err
		}
		all = append(all, contents(p, i))
	}
	if format == FormatJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"pools": all})
	}
	return table(all, time.Now(), out)
}

func checkFormat(format string) error {
	if format != FormatTable && format != FormatJSON {
		return fmt.Errorf("the format %q is neither %s nor %s", format, FormatTable, FormatJSON)
	}
	return nil
}

func contents(p config.Pool, i inspection) PoolContents {
	c := PoolContents{Name: p.Name, Root: i.Root, Identity: i.Identity, Volumes: []ListedVolume{}, Problems: []string{}, Unknown: []string{}}
	if i.Advisory != nil {
		c.Advisory = i.Advisory.Error()
	}
	for _, r := range i.Reports {
		c.Volumes = append(c.Volumes, listed(r))
	}
	for _, err := range i.Problems {
		c.Problems = append(c.Problems, err.Error())
	}
	c.Unknown = append(c.Unknown, i.Unknown...)
	return c
}

func listed(r volume.Report) ListedVolume {
	v := ListedVolume{
		Name: r.Name.String(), Namespace: r.Claim.Namespace, Claim: r.Claim.Name, ClaimUID: r.Claim.UID, State: string(r.State),
		Created: r.Created, Retained: r.Reclaim == volume.ReclaimRetain, Published: r.Published, Origin: r.Origin, Path: r.Dir, ExportPath: r.Export.Path,
		Size: r.Size, Inodes: r.Inodes, Limit: string(r.Limit), SnapshotOf: r.SnapshotOf.String(),
	}
	if r.Usage != nil {
		v.Used = &r.Usage.Bytes
		if r.Usage.Inodes > 0 {
			v.UsedInodes = &r.Usage.Inodes
		}
	}
	return v
}

// table writes a line for each volume, then what else was found.
func table(pools []PoolContents, now time.Time, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POOL\tVOLUME\tCLAIM\tSIZE\tLIMIT\tUSED\tINODES\tSTATE\tCREATED\tAGE\tRETAINED\tPUBLISHED")
	for _, p := range pools {
		for _, v := range p.Volumes {
			row := []string{
				p.title(), v.Name, v.Namespace + "/" + v.Claim, bytesText(uint64(v.Size)), v.limitText(), "-", v.inodesText(), v.stateText(),
				v.Created.UTC().Format(time.RFC3339), ageText(now.Sub(v.Created)), yesNo(v.Retained), yesNo(v.Published),
			}
			if v.Used != nil {
				row[5] = bytesText(*v.Used)
			}
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range pools {
		if p.Advisory != "" {
			fmt.Fprintf(out, "\nPool %s: sizes of new volumes are advisory: %s\n", p.title(), p.Advisory)
		}
		section(out, fmt.Sprintf("Pool %s: problems", p.title()), p.Problems)
		section(out, fmt.Sprintf("Pool %s: no record names", p.title()), p.Unknown)
	}
	return nil
}

// section writes lines under a heading; nothing if there are none.
func section(out io.Writer, heading string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(out, "\n%s:\n  %s\n", heading, strings.Join(lines, "\n  "))
	}
}

func (p PoolContents) title() string { return cmp.Or(p.Name, p.Root) }

func title(p config.Pool) string { return cmp.Or(p.Name, root(p)) }

func (v ListedVolume) limitText() string {
	switch {
	case v.Limit != "":
		return v.Limit
	case v.SnapshotOf != "":
		return "-" // it does not grow
	}
	return "advisory"
}

func (v ListedVolume) stateText() string {
	switch {
	case v.SnapshotOf == "":
		return v.State
	case v.State == string(volume.StateSnapshot):
		return "snapshot of " + v.SnapshotOf
	}
	return v.State + ", snapshot of " + v.SnapshotOf
}

// inodesText is as in "12/1000", the most last; "-" where there is neither.
func (v ListedVolume) inodesText() string {
	var parts []string
	if v.UsedInodes != nil {
		parts = append(parts, fmt.Sprint(*v.UsedInodes))
	}
	if v.Inodes > 0 {
		parts = append(parts, fmt.Sprint(v.Inodes))
	}
	if parts == nil {
		return "-"
	}
	return strings.Join(parts, "/")
}

// bytesText is as in "1Gi" or "1.5Mi", rounded to a tenth.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprint(n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1<<10 && unit < len(units)-1 {
		value, unit = value/(1<<10), unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + units[unit:unit+1] + "i"
}

// ageText is as kubectl's: the greatest unit that gives more than one of it.
func ageText(d time.Duration) string {
	for _, unit := range []struct {
		name string
		long time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d >= 2*unit.long {
			return fmt.Sprintf("%d%s", d/unit.long, unit.name)
		}
	}
	return fmt.Sprintf("%ds", max(0, d/time.Second))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
