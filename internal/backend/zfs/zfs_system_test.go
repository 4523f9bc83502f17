//go:build system

package zfs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/zfsfuse"
)

// recorder is a Runner that knows what it was asked to run, by program and first argument.
type recorder struct {
	zfs.Runner
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Output(ctx context.Context, argv []string) ([]byte, error) {
	r.mu.Lock()
	r.lines = append(r.lines, strings.Join(argv[:min(2, len(argv))], " "))
	r.mu.Unlock()
	return r.Runner.Output(ctx, argv)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines = nil
	return lines
}

func made(t *testing.T, b *zfs.Backend, name string) volume.Volume {
	t.Helper()
	v, err := b.Create(t.Context(), volumetest.Spec(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func name(t *testing.T, s string) volume.Name { return volumetest.Spec(t, s).Name }

// Each command costs a process, and over ssh a round trip.
func TestAVolumeCostsTwoCommands(t *testing.T) {
	r := &recorder{Runner: here}
	b := open(t, zfs.Options{Dataset: parent(t), Local: true, Runner: r})
	m := volume.NewManager(volume.Pool{Name: "tank", Backend: b, Server: nobody{}, ExportPath: b.Root()})
	if _, err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.take()
	s := volumetest.Spec(t, "pvc-1")
	v, err := m.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"zfs get", "zfs create"}, r.take()); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	var top unix.Stat_t
	if err := unix.Stat(v.Dir, &top); err != nil || top.Uid != s.Owner.UID || top.Mode&0o7777 != s.Owner.Mode {
		t.Errorf("%s has mode %o and owner %d, want %+v; %v", v.Dir, top.Mode, top.Uid, s.Owner, err)
	}
}

// nobody is a server that exports nothing.
type nobody struct{}

func (nobody) Sync(context.Context, []export.Export) error   { return nil }
func (nobody) Publish(context.Context, export.Export) error  { return nil }
func (nobody) Withdraw(context.Context, export.Export) error { return nil }

func TestSizesArePropertiesOfTheDataset(t *testing.T) {
	const mib = 1 << 20
	for sizing, want := range map[volume.Sizing]string{
		volume.SizingIgnore: "0 0", volume.SizingQuota: "8388608 0", volume.SizingReservation: "0 8388608", volume.SizingBoth: "8388608 8388608", "": "8388608 8388608",
	} {
		t.Run(string(sizing), func(t *testing.T) {
			dataset := parent(t)
			b := open(t, zfs.Options{Dataset: dataset, Local: true})
			s := volumetest.Spec(t, "pvc-1")
			s.Size, s.Settings.Sizing = 4*mib, sizing
			v, err := b.Create(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			v.Size = 8 * mib
			if _, err := b.Update(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(zfsRun(t, "get", "-Hp", "-o", "value", "refquota,refreservation", dataset+"/pvc-1"))
			if strings.Join(got, " ") != want {
				t.Errorf("refquota and refreservation are %v, want %s", got, want)
			}
		})
	}
}

func TestAWriterIsStoppedAtTheVolumesSizeUntilItGrows(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t), Local: true, Properties: map[string]string{"compression": "off"}})
	s := volumetest.Spec(t, "pvc-1")
	s.Size = 2 << 20
	v, err := b.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("berth"), 1<<20)
	if err := write(filepath.Join(v.Dir, "big"), big); !errors.Is(err, syscall.EDQUOT) && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing 5 MiB to 2 MiB: %v", err)
	}
	v.Size = 16 << 20
	if v, err = b.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(v.Dir, "big"), big); err != nil {
		t.Errorf("writing 5 MiB to 16 MiB: %v", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(v.Dir, &fs); err != nil || int64(fs.Blocks)*fs.Bsize > v.Size || int64(fs.Blocks)*fs.Bsize < v.Size/2 {
		t.Errorf("df shows %d bytes, want %d; %v", int64(fs.Blocks)*fs.Bsize, v.Size, err)
	}
	if _, err := b.Update(t.Context(), withSize(v, 1<<42)); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("growing to 4 TiB: got error %v, want %v", err, volume.ErrNoSpace)
	}
	if now, err := b.Get(t.Context(), v.Name); err != nil || now.Size != v.Size {
		t.Errorf("then the record says %d, %v", now.Size, err)
	}
	if u, err := b.Usage(t.Context(), v); err != nil || u.LimitBytes != uint64(v.Size) || u.Bytes < uint64(len(big)) {
		t.Errorf("then its usage is %+v, %v", u, err)
	}
}

func withSize(v volume.Volume, bytes int64) volume.Volume {
	v.Size = bytes
	return v
}

func write(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func TestAParentThatCannotBeOneIsRefusedWithTheCommandThatMendsIt(t *testing.T) {
	good := parent(t)
	zfsRun(t, "create", good+"/unmounted")
	zfsRun(t, "unmount", good+"/unmounted")
	zfsRun(t, "create", "-o", "mountpoint=none", good+"/nowhere")
	for dataset, want := range map[string]string{
		good + "/missing":   "zfs create -p " + good + "/missing",
		"nosuchpool/a":      "zpool import nosuchpool",
		good + "/unmounted": "zfs mount " + good + "/unmounted",
		good + "/nowhere":   "zfs set mountpoint=/" + good + "/nowhere " + good + "/nowhere",
		"/" + good:          "no slash at its start or end",
		good + "/":          "no slash at its start or end",
		good + "/a b":       "cannot be the name",
		"-r":                "cannot be the name",
		"":                  "cannot be the name",
	} {
		b, err := zfs.Open(t.Context(), zfs.Options{Dataset: dataset, Local: true, Runner: here})
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %q in it", dataset, err, want)
		}
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	_, err := zfs.Open(t.Context(), zfs.Options{Dataset: dataset, Local: true, Runner: here})
	if _, locked := errors.AsType[*zfs.LockedError](err); !locked {
		t.Errorf("opened twice: got error %v", err)
	}
	waits := make(chan struct{})
	go func() { <-waits; b.Close() }()
	second, err := zfs.Open(t.Context(), zfs.Options{Dataset: dataset, Local: true, Runner: here, Wait: func() { close(waits) }})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Identity() != b.Identity() || second.New() {
		t.Errorf("it is another pool: %s, new: %t, and was %s", second.Identity(), second.New(), b.Identity())
	}
}

// What Berth did not make it must neither list nor touch.
func TestForeignDatasetsStay(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	v := made(t, b, "pvc-1")
	record := zfsRun(t, "get", "-H", "-o", "value", "berth:record", dataset+"/pvc-1")
	zfsRun(t, "create", dataset+"/pvc-2")
	zfsRun(t, "snapshot", dataset+"/pvc-1@mine")
	zfsRun(t, "clone", dataset+"/pvc-1@mine", dataset+"/pvc-3")                // has no copy of the record
	zfsRun(t, "create", "-o", "berth:record="+record, dataset+"/pvc-4")        // has one
	zfsRun(t, "create", "-o", "berth:record="+record, dataset+"/.berth/pvc-9") // likewise
	for _, other := range []string{"pvc-2", "pvc-3"} {
		n := name(t, other)
		if _, err := b.Get(t.Context(), n); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Get(%s): %v", other, err)
		}
		if _, err := b.Create(t.Context(), volumetest.Spec(t, other)); !errors.Is(err, volume.ErrForeign) {
			t.Errorf("Create(%s): got error %v, want %v", other, err, volume.ErrForeign)
		}
		if err := b.Discard(t.Context(), n); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("Discard(%s): %v", other, err)
		}
	}
	if err := b.Discard(t.Context(), name(t, "pvc-4")); err == nil || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("Discard of a dataset with another one's record: %v", err)
	}
	var listed []string
	failed := 0
	for v, err := range b.List(t.Context()) {
		if err != nil {
			failed++
			continue
		}
		listed = append(listed, v.Name.String())
	}
	if diff := cmp.Diff([]string{"pvc-1"}, listed); diff != "" || failed != 2 {
		t.Errorf("listed (-want +got), and %d that cannot be read:\n%s", failed, diff)
	}
	for _, other := range []string{"/pvc-2", "/pvc-3", "/pvc-4", "/.berth/pvc-9"} {
		zfsRun(t, "list", dataset+other)
	}
	if err := errors.Join(b.Discard(t.Context(), v.Name), b.CheckDiscard(t.Context(), v)); err != nil {
		t.Fatal(err)
	}
	// The clone that somebody made stays whole, and Berth's volume waits for it.
	if err := b.Purge(t.Context(), v.Name); !errors.Is(err, volume.ErrCloned) {
		t.Errorf("Purge: got error %v, want %v", err, volume.ErrCloned)
	}
	zfsRun(t, "list", dataset+"/pvc-3")
}

func TestWhatIsInAVolumeKeepsItFromBeingDeleted(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	v := made(t, b, "pvc-1")
	if err := b.CheckDiscard(t.Context(), v); err != nil {
		t.Error(err)
	}
	zfsRun(t, "create", dataset+"/pvc-1/child")
	if err := b.CheckDiscard(t.Context(), v); !errors.Is(err, volume.ErrConflict) || !strings.Contains(err.Error(), dataset+"/pvc-1/child") {
		t.Errorf("with a dataset in it: got error %v", err)
	}
	zfsDestroy(t, dataset+"/pvc-1/child")
	zfsRun(t, "snapshot", dataset+"/pvc-1@mine")
	if err := b.CheckDiscard(t.Context(), v); err != nil {
		t.Errorf("with a snapshot: %v", err)
	}
	v.KeepSnapshots = true
	if err := b.CheckDiscard(t.Context(), v); !errors.Is(err, volume.ErrConflict) || !strings.Contains(err.Error(), "@mine") {
		t.Errorf("with a snapshot that is to be kept: got error %v", err)
	}
	zfsDestroy(t, dataset+"/pvc-1@mine")
	if _, err := b.Clone(t.Context(), volumetest.CloneSpec(t, "pvc-2", "pvc-1"), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckDiscard(t.Context(), v); err != nil {
		t.Errorf("with a snapshot of Berth's own: %v", err)
	}
}

func TestPropertiesAreSet(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Properties: map[string]string{"atime": "off", "compression": "gzip"}})
	s := volumetest.Spec(t, "pvc-1")
	s.Settings.Properties = map[string]string{"compression": "lzjb", "recordsize": "8192"}
	if _, err := b.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(zfsRun(t, "get", "-Hp", "-o", "value", "atime,compression,recordsize,sharenfs", dataset+"/pvc-1")), " ")
	if got != "off lzjb 8192 off" {
		t.Errorf("properties are %s", got)
	}
	s = volumetest.Spec(t, "pvc-2")
	s.Settings.Properties = map[string]string{"compression": "best"}
	if _, err := b.Create(t.Context(), s); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "lzjb") {
		t.Errorf("got error %v, want one that names the values", err)
	}
	for property, value := range map[string]string{"mountpoint": "/etc", "refquota": "1", "berth:record": "{}", "a b": "c", "atime": "on\noff", "sharenfs": "on"} {
		s.Settings.Properties = map[string]string{property: value}
		if _, err := b.Create(t.Context(), s); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s=%q: got error %v, want %v", property, value, err, volume.ErrInvalid)
		}
	}
}

// What zfs receive makes is a copy, and nobody's, until somebody has done what the page says.
func TestAReceivedPoolIsACopyUntilItIsSaid(t *testing.T) {
	from, to := parent(t), parent(t)+"/copy"
	b := open(t, zfs.Options{Dataset: from, Local: true})
	made(t, b, "pvc-1")
	snapshot := taken(t, b, "snap-1", "pvc-1")
	shell := func(script string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	zfsRun(t, "snapshot", "-r", from+"@move")
	shell("zfs send -R " + from + "@move | zfs receive " + to)
	for _, name := range []string{to, to + "/pvc-1"} {
		_, _ = zfsfuse.Run("zfs", "mount", name) // receive may have done so
	}
	if _, err := zfs.Open(t.Context(), zfs.Options{Dataset: to, Local: true, Runner: here}); !errors.Is(err, volume.ErrForeign) || !strings.Contains(err.Error(), "Moving to another pool") {
		t.Fatalf("before: got error %v", err)
	}
	page, err := os.ReadFile("../../../docs/zfs.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```sh\nzfs get -rH -s received")
	script, _, _ = strings.Cut("zfs get -rH -s received"+script, "```")
	shell(strings.ReplaceAll(script, "new/kubernetes", to))
	copied := open(t, zfs.Options{Dataset: to, Local: true})
	if v, err := copied.Get(t.Context(), name(t, "pvc-1")); err != nil || v.State != volume.StateReady || copied.Identity() != b.Identity() {
		t.Errorf("afterwards: got %+v, %v, of pool %s", v, err, copied.Identity())
	}
	if v, err := copied.Get(t.Context(), snapshot.Name); err != nil || v.State != volume.StateSnapshot {
		t.Errorf("afterwards its snapshot is %+v, %v", v, err)
	}
}

// Some properties a clone cannot have otherwise than its source; that it has them is no reason to refuse it.
func TestClonesHaveTheCaseOfTheirSource(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Properties: map[string]string{"casesensitivity": "sensitive"}})
	source := volumetest.Spec(t, "pvc-1")
	source.Settings.Properties = map[string]string{"casesensitivity": "mixed", "atime": "off"}
	if _, err := b.Create(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	s := volumetest.CloneSpec(t, "pvc-2", "pvc-1")
	s.Settings.Properties = map[string]string{"casesensitivity": "insensitive"}
	if _, err := b.Clone(t.Context(), s, nil); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "which is mixed and cannot be insensitive") {
		t.Errorf("got error %v", err)
	}
	s.Settings.Properties = map[string]string{"casesensitivity": "mixed", "exec": "off"}
	if _, err := b.Clone(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(zfsRun(t, "get", "-H", "-o", "value", "casesensitivity,exec,atime", dataset+"/pvc-2")); !slices.Equal(got, []string{"mixed", "off", "on"}) {
		t.Errorf("the clone has %q", got)
	}
}

func TestAPoolThatZFSDoesNotShareSharesNoVolume(t *testing.T) {
	b := open(t, zfs.Options{Dataset: parent(t), Local: true})
	s := volumetest.Spec(t, "pvc-1")
	s.Settings.Share = "rw"
	if _, err := b.Create(t.Context(), s); !errors.Is(err, volume.ErrUnsupported) || b.Sharer() != nil {
		t.Errorf("got error %v, want %v", err, volume.ErrUnsupported)
	}
}

// zfs-fuse cannot share: zfs create makes the dataset and ends with status 1, "filesystem
// successfully created, but not shared".
func TestCreatedButNotSharedIsFinishedByTheRetry(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true, Share: "on"})
	manager := func(b *zfs.Backend, s export.Server) *volume.Manager {
		m := volume.NewManager(volume.Pool{Name: "tank", Backend: b, Server: s, ExportPath: b.Root(), Log: slog.New(slog.DiscardHandler)})
		if _, err := m.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		return m
	}
	s := volumetest.Spec(t, "pvc-1")
	for range 2 {
		if _, err := manager(b, b.Sharer()).Create(t.Context(), s); !errors.Is(err, export.ErrRefused) ||
			!strings.Contains(err.Error(), "exportfs") || !strings.Contains(err.Error(), `whether an NFS server is installed on that host and runs, and knows the share options "on"`) {
			t.Errorf("got error %v, want the reason, and what to do", err)
		}
	}
	made, err := b.Get(t.Context(), s.Name)
	if err != nil || made.State != volume.StateReady {
		t.Errorf("the record says %+v, %v", made, err)
	}
	b.Close()
	b = open(t, zfs.Options{Dataset: dataset, Local: true}) // once the administrator has done without
	m := manager(b, nobody{})
	v, err := m.Create(t.Context(), s)
	if err != nil || v.State != volume.StateReady || v.Created != made.Created {
		t.Errorf("got %+v, %v; want what was made before", v, err)
	}
}

// What was made to its end, but not said to be, is a volume also where the host has not mounted it at the start.
func TestAVolumeIsSettledThatTheHostHasNotMounted(t *testing.T) {
	dataset := parent(t)
	b := open(t, zfs.Options{Dataset: dataset, Local: true})
	s := volumetest.Spec(t, "pvc-1")
	if _, err := b.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b.Close()
	zfsRun(t, "unmount", dataset+"/pvc-1")
	b = open(t, zfs.Options{Dataset: dataset, Local: true})
	if v, err := b.Get(t.Context(), s.Name); err != nil || v.State != volume.StateReady {
		t.Errorf("it is %s, %v", v.State, err)
	}
	if got := property(t, "mounted", dataset+"/pvc-1"); got != "yes" {
		t.Errorf("mounted: %s", got)
	}
}

func TestRandomClones(t *testing.T) {
	for on, steps := range map[zfs.OnClones]int{zfs.OnClonesWait: 500, zfs.OnClonesPromote: 200} {
		t.Run(string(on), func(t *testing.T) {
			dataset := parent(t)
			b := open(t, zfs.Options{Dataset: dataset, Local: true, OnClones: on, Sizing: volume.SizingQuota})
			volumetest.Model(t, b, 1, steps)
			if left := strings.Fields(zfsRun(t, "list", "-H", "-r", "-t", "all", "-o", "name", dataset)); len(left) != 2 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
