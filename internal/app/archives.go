package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/volume"
)

// ListedArchive is what Archives writes of a volume whose claim was deleted and whose
// data is kept. Sizes are in bytes.
type ListedArchive struct {
	Pool      string    `json:"pool"`
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"` // of the claim that it was of
	Claim     string    `json:"claim"`
	State     string    `json:"state"` // archived or retained
	Size      int64     `json:"size"`
	Used      int64     `json:"used,omitempty"` // if it was counted
	Deleted   time.Time `json:"deleted"`        // the claim
	Path      string    `json:"path"`           // below the pool's root, when it had a claim
	Dir       string    `json:"directory"`      // where it is now

	cluster, identity string
}

// archives gives what is kept in pools without a claim, the oldest first.
func archives(ctx context.Context, pools []config.Pool) (all []ListedArchive, err error) {
	for _, p := range pools {
		i, err := inspect(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, r := range i.Reports {
			if r.State != volume.StateArchived && r.State != volume.StateRetained {
				continue
			}
			a := ListedArchive{
				Pool: title(p), Name: r.Name.String(), Namespace: r.Claim.Namespace, Claim: r.Claim.Name, State: string(r.State), Size: r.Size,
				Used: r.ArchiveBytes, Deleted: r.Ended, Path: r.Path.String(), Dir: r.Dir, cluster: r.Cluster, identity: i.Identity,
			}
			if r.Usage != nil {
				a.Used = int64(r.Usage.Bytes)
			}
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b ListedArchive) int { return a.Deleted.Compare(b.Deleted) })
	return all, nil
}

// Archives writes what is kept in pools without a claim. It needs no lock.
func Archives(ctx context.Context, pools []config.Pool, format string, out io.Writer) error {
	if err := checkFormat(format); err != nil {
		return err
	}
	all, err := archives(ctx, pools)
	if err != nil {
		return err
	}
	if format == FormatJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"archives": append([]ListedArchive{}, all...)})
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POOL\tVOLUME\tCLAIM\tSTATE\tSIZE\tUSED\tDELETED\tDIRECTORY")
	for _, a := range all {
		used := "-"
		if a.Used > 0 {
			used = bytesText(uint64(a.Used))
		}
		fmt.Fprintln(w, strings.Join([]string{
			a.Pool, a.Name, a.Namespace + "/" + a.Claim, a.State, bytesText(uint64(a.Size)), used, a.Deleted.UTC().Format(time.RFC3339), a.Dir,
		}, "\t"))
	}
	return w.Flush()
}

// PurgeOptions say which archives PurgeArchives removes.
type PurgeOptions struct {
	Names     []string      // of these volumes, archived or retained; or, if there are none:
	All       bool          // every one that is archived
	OlderThan time.Duration // or those of the claims that were deleted before that; 0: none
	DryRun    bool          // only say what would be removed
	RunDir    string        // of the Berth that has the pools open
}

// PurgeArchives has the Berth that has the pools open remove archives, and prints what
// came of it.
func PurgeArchives(ctx context.Context, pools []config.Pool, o PurgeOptions, out io.Writer) error {
	ways := 0
	for _, given := range []bool{len(o.Names) > 0, o.All, o.OlderThan > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("say which archives: the names of their volumes, --older-than, or --all")
	}
	all, err := archives(ctx, pools)
	if err != nil {
		return err
	}
	chosen, err := o.choose(all, time.Now())
	if err != nil {
		return err
	}
	var failed []error
	for _, a := range chosen {
		what := fmt.Sprintf("%s/%s of claim %s/%s, %s since %s", a.Pool, a.Name, a.Namespace, a.Claim, a.State, a.Deleted.UTC().Format(time.RFC3339))
		if o.DryRun {
			fmt.Fprintln(out, "to be removed:", what)
			continue
		}
		if err := deleteArchive(ctx, controlSocket(o.RunDir, a.identity), a.Name, a.cluster); err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(out, "removed:", what)
	}
	return errors.Join(failed...)
}

func (o PurgeOptions) choose(all []ListedArchive, now time.Time) (chosen []ListedArchive, err error) {
	for _, name := range o.Names {
		a, err := findArchive(all, name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, a)
	}
	for _, a := range all {
		if a.State == string(volume.StateArchived) && (o.All || o.OlderThan > 0 && now.Sub(a.Deleted) > o.OlderThan) {
			chosen = append(chosen, a)
		}
	}
	return chosen, nil
}

// findArchive gives the one called name, which may have its pool in front.
func findArchive(all []ListedArchive, name string) (ListedArchive, error) {
	var found []ListedArchive
	for _, a := range all {
		if a.Name == name || a.Pool+"/"+a.Name == name {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return ListedArchive{}, fmt.Errorf("%w: no volume %q is archived or retained; see berth archives list", volume.ErrNotFound, name)
	default:
		return ListedArchive{}, fmt.Errorf("several pools have a volume %s; say which, as in %s/%s", name, found[0].Pool, name)
	}
}

// RestoreOptions say to what Restore restores an archive.
type RestoreOptions struct {
	Volume string // which is archived or retained
	Class  string // of the new claim
	Claim  string // its name; "" for that of the old one
}

// Restore writes the manifest of a claim that gets what is kept of a volume. It needs no
// lock, and changes nothing.
func Restore(ctx context.Context, pools []config.Pool, o RestoreOptions, out io.Writer) error {
	all, err := archives(ctx, pools)
	if err != nil {
		return err
	}
	a, err := findArchive(all, o.Volume)
	if err != nil {
		return err
	}
	name := a.Claim
	if o.Claim != "" {
		name = o.Claim
	}
	// Quoted, since what a tenant has put into the path would else be part of the manifest:
	// YAML knows ends of lines that a path may have.
	_, err = fmt.Fprintf(out, `# Volume %s of claim %q, at %q, %s since %s.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: %q
  namespace: %q
  annotations:
    %s: %q
spec:
  storageClassName: %q
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: "%d"
`, a.Name, a.Namespace+"/"+a.Claim, a.Path, a.State, a.Deleted.UTC().Format(time.RFC3339), name, a.Namespace, kube.AnnotationRestoreFrom, a.Name, o.Class, a.Size)
	return err
}
