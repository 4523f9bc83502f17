//go:build system

// Package powercut tests that what Create has returned is there after a power cut,
// with its limit.
package powercut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// In the guest this test binary makes and reads volumes.
const (
	taskVariable = "BERTH_TEST_POWERCUT" // make or read
	root         = "/srv"
	inside       = "/usr/local/bin/powercut"
	many         = 20
)

func TestMain(m *testing.M) {
	task := os.Getenv(taskVariable)
	if task == "" {
		os.Exit(m.Run())
	}
	if err := do(context.Background(), task, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// seen is a volume and what limits it.
type seen struct {
	Volume volume.Volume
	Usage  volume.Usage
	Dir    bool // its directory is there
}

// do does a task and writes one line for each volume.
func do(ctx context.Context, task string, out io.Writer) error {
	b, err := dir.Open(ctx, root, dir.Options{Quota: dir.QuotaRequired})
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	if task == "make" {
		for i := range many {
			s := volumetest.Spec(&testing.T{}, fmt.Sprint("pvc-", i))
			s.Size = int64(i+1) << 20
			v, err := b.Create(ctx, s)
			if err != nil {
				return err
			}
			if i%4 == 3 { // and some are grown
				v.Size *= 2
				if v, err = b.Update(ctx, v); err != nil {
					return err
				}
			}
			if err := lines.Encode(seen{Volume: v}); err != nil {
				return err
			}
		}
		// The machine goes down before anything else is written.
		select {}
	}
	for v, err := range b.List(ctx) {
		if err != nil {
			return err
		}
		s := seen{Volume: v}
		if _, err := os.Stat(v.Dir); err == nil {
			s.Dir = true
		}
		if s.Usage, err = b.Usage(ctx, v); err != nil {
			return err
		}
		if err := lines.Encode(s); err != nil {
			return err
		}
	}
	return b.Close()
}

func TestVolumesOutliveAPowerCut(t *testing.T) {
	for _, fs := range []vm.FileSystem{vm.XFS, vm.Ext4, vm.Btrfs} {
		t.Run(fs.Kind, func(t *testing.T) {
			guest, err := vm.Start(t.Context(), vm.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := guest.Stop(); err != nil {
					t.Error(err)
				}
			})
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if err := guest.Put(t.Context(), program, inside); err != nil {
				t.Fatal(err)
			}
			run(t, guest, append(append([]string{"mkfs." + fs.Kind, "-q"}, fs.Make...), file(t, guest))...)
			mount(t, guest, fs)
			if fs.Kind == vm.Btrfs.Kind {
				run(t, guest, "btrfs", "quota", "enable", root)
			}
			run(t, guest, "sync") // what is written from here on has to be written by Create
			made := makeVolumes(t, guest)
			if err := guest.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			mount(t, guest, fs)
			found := map[string]seen{}
			for _, s := range read(t, guest) {
				found[s.Volume.Name.String()] = s
			}
			for _, v := range made {
				s := found[v.Name.String()]
				if s.Volume.State != volume.StateReady || !s.Dir || s.Volume.QuotaID != v.QuotaID || s.Volume.Size != v.Size ||
					s.Usage.LimitBytes != uint64(v.Size) {
					t.Errorf("made %+v, found %+v", v, s)
				}
			}
			if len(made) != many || len(found) != many {
				t.Errorf("made %d volumes, found %d, want %d", len(made), len(found), many)
			}
		})
	}
}

func run(t *testing.T, guest *vm.Guest, args ...string) {
	t.Helper()
	if _, err := guest.Run(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

// file makes the file that the file system is in, on the guest's disk.
func file(t *testing.T, guest *vm.Guest) string {
	t.Helper()
	const disk = "/disk"
	run(t, guest, "truncate", "-s", "600M", disk)
	return disk
}

func mount(t *testing.T, guest *vm.Guest, fs vm.FileSystem) {
	t.Helper()
	run(t, guest, append(append([]string{"mount", "-t", fs.Kind}, fs.Mount...), "/disk", root)...)
}

// makeVolumes makes volumes and gives them; the program that made them is still there.
func makeVolumes(t *testing.T, guest *vm.Guest) []volume.Volume {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	var complaints bytes.Buffer
	go func() {
		err := guest.Exec(ctx, vm.Command{Args: []string{inside}, Env: []string{taskVariable + "=make"}, Stdout: in, Stderr: &complaints})
		in.CloseWithError(errors.Join(io.EOF, err))
	}()
	var made []volume.Volume
	lines := json.NewDecoder(out)
	for range many {
		var s seen
		if err := lines.Decode(&s); err != nil {
			t.Fatalf("after %d volumes: %v: %s", len(made), err, complaints.String())
		}
		made = append(made, s.Volume)
	}
	return made
}

func read(t *testing.T, guest *vm.Guest) (all []seen) {
	t.Helper()
	var out, complaints bytes.Buffer
	err := guest.Exec(t.Context(), vm.Command{Args: []string{inside}, Env: []string{taskVariable + "=read"}, Stdout: &out, Stderr: &complaints})
	if err != nil {
		t.Fatalf("%v: %s", err, complaints.String())
	}
	for lines := json.NewDecoder(&out); ; {
		var s seen
		if err := lines.Decode(&s); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}
