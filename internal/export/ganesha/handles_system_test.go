//go:build system

package ganesha_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

func dialPort(t *testing.T, port int) *nfs4.Client {
	t.Helper()
	c, err := nfs4.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", port), nfs4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Clients that have a volume of the predecessor mounted go on: the handles that they
// hold are good at Berth's server, if it names file systems in them in the same way.
func TestHandlesOfThePredecessorStayGood(t *testing.T) {
	for _, before := range []struct{ name, fsidDevice string }{
		{"nfs-provisioner 1.0.3", ""},
		{"its heir", "true"},
		{"its heir with -device-based-fsids=false", "false"},
	} {
		t.Run(before.name, func(t *testing.T) {
			p := harness.Predecessor{Root: t.TempDir(), FSIDDevice: before.fsidDevice}
			dir := filepath.Join(p.Root, "pvc-1")
			_, err := p.Add("pvc-1", 5, "no_root_squash")
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644)); err != nil {
				t.Fatal(err)
			}
			o := options(t)
			server, err := p.Serve(t.TempDir(), o.Port)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Kill)
			client := dialPort(t, o.Port)
			handle, err := client.FileHandle(t.Context(), dir+"/file")
			if err != nil {
				t.Fatal(err)
			}
			old, err := client.StatHandle(t.Context(), handle)
			if err != nil {
				t.Fatal(err)
			}
			server.Kill()

			e := export.Export{ID: 5, FSID: export.NumberFSID(5), Dir: dir, Path: dir, Squash: export.SquashNone}
			same := before.fsidDevice == "true"
			for _, device := range []bool{same, !same} {
				o.DeviceFSIDs = device
				s := start(t, o, e)
				now, err := dialPort(t, o.Port).StatHandle(t.Context(), handle)
				if device == same && (err != nil || now.FSID != old.FSID || now.FileID != old.FileID) {
					t.Errorf("deviceBasedFsids %t: the handle gives %v, %v; it was %v", device, now, err, old)
				}
				if device != same && !errors.Is(err, nfs4.ErrStale) {
					t.Errorf("deviceBasedFsids %t, otherwise than before: the handle gives %v, %v; want %v", device, now, err, nfs4.ErrStale)
				}
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A disk of a cloud may come back under another device number. (Ganesha finds the UUID
// of an xfs file system only if it may read the device; of ext4 the kernel tells it.)
func TestHandlesOfADiskUnderAnotherNumber(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		for _, device := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-%t", kind, device), func(t *testing.T) {
				image, target := filepath.Join(t.TempDir(), "disk"), t.TempDir()
				sparse(t, image, 300<<20) // the least that mkfs.xfs makes
				command(t, "mkfs."+kind, "-q", image)
				first := attach(t, image, kind, target)
				dir := filepath.Join(target, "pvc-1")
				if err := os.Mkdir(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				o := options(t)
				o.DeviceFSIDs = device
				e := export.Export{ID: 5, FSID: export.NumberFSID(5), Dir: dir, Path: dir, Squash: export.SquashNone}
				s := start(t, o, e)
				client := dialPort(t, o.Port)
				handle, err := client.FileHandle(t.Context(), dir)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
				first.detach(t)
				// Something else has the old number now.
				other := filepath.Join(t.TempDir(), "other")
				sparse(t, other, 1<<20)
				command(t, "losetup", first.device, other)
				t.Cleanup(func() { command(t, "losetup", "-d", first.device) })
				if second := attach(t, image, kind, target); second.device == first.device {
					t.Fatalf("it is %s again", first.device)
				}
				start(t, o, e)
				_, err = client.StatHandle(t.Context(), handle)
				if device && !errors.Is(err, nfs4.ErrStale) || !device && err != nil {
					t.Errorf("the handle gives error %v", err)
				}
			})
		}
	}
}

func sparse(t *testing.T, file string, bytes int64) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, bytes)); err != nil {
		t.Fatal(err)
	}
}

type disk struct {
	device, target string
	attached       bool
}

// attach mounts an image by a loop device until detach, or the end of the test.
func attach(t *testing.T, image, kind, target string) *disk {
	t.Helper()
	d := &disk{device: strings.TrimSpace(command(t, "losetup", "--find", "--show", image)), target: target, attached: true}
	command(t, "mount", "-t", kind, d.device, target)
	t.Cleanup(func() { d.detach(t) })
	return d
}

func (d *disk) detach(t *testing.T) {
	t.Helper()
	if !d.attached {
		return
	}
	d.attached = false
	command(t, "umount", d.target)
	command(t, "losetup", "-d", d.device)
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
