//go:build system

package vm

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Each kind of file system is served by the kernel to the kernel's client, by all
// versions of the protocol.
func TestKernelNFS(t *testing.T) {
	if err := StartNFSD(t.Context(), shared); err != nil {
		t.Fatal(err)
	}
	for _, fs := range []FileSystem{XFS, Ext4, Btrfs} {
		t.Run(fs.Kind, func(t *testing.T) {
			dir := "/srv/" + fs.Kind
			if err := MountNew(t.Context(), shared, fs, dir, 512<<20); err != nil {
				t.Fatal(err)
			}
			run(t, shared, "exportfs", "-o", "rw,no_root_squash", "127.0.0.1:"+dir)
			for _, version := range []string{"3", "4.0", "4.1", "4.2"} {
				run(t, shared, "mount", "-t", "nfs", "-o", "vers="+version, "127.0.0.1:"+dir, "/mnt")
				run(t, shared, "sh", "-ec", "echo written by "+version+" >/mnt/file")
				if got := run(t, shared, "cat", dir+"/file"); got != "written by "+version+"\n" {
					t.Errorf("the file has %q", got)
				}
				if got := run(t, shared, "findmnt", "-no", "options", "/mnt"); !slices.Contains(strings.Split(got, ","), "vers="+version) {
					t.Errorf("mounted with %s", got)
				}
				run(t, shared, "umount", "/mnt")
			}
			run(t, shared, "exportfs", "-u", "127.0.0.1:"+dir)
			run(t, shared, "umount", dir)
		})
	}
}

// The kernel holds writers to a project's limit.
func TestProjectQuota(t *testing.T) {
	for _, fs := range []FileSystem{XFS, Ext4} {
		t.Run(fs.Kind, func(t *testing.T) {
			dir := "/srv/quota-" + fs.Kind
			if err := MountNew(t.Context(), shared, fs, dir, 512<<20); err != nil {
				t.Fatal(err)
			}
			defer run(t, shared, "umount", dir)
			run(t, shared, "xfs_quota", "-x", "-f", "-c", "project -s -p "+dir+" 7", "-c", "limit -p bhard=1m 7", dir)
			run(t, shared, "chmod", "777", dir)
			// Root may pass the limit on ext4, another user may not.
			write := []string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "dd", "if=/dev/zero", "of=" + dir + "/file", "bs=64k", "conv=fsync"}
			run(t, shared, append(write, "count=8")...)
			_, err := shared.Run(t.Context(), append(write, "count=64")...)
			if err == nil || !strings.Contains(err.Error(), "No space left") && !strings.Contains(err.Error(), "quota exceeded") {
				t.Errorf("4 MiB into a limit of 1 MiB: %v", err)
			}
		})
	}
}

// A test that fails in the guest fails on the host, under its own name.
func TestMainReportsFailures(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-tags=system", "./testdata/failing").Output()
	if err == nil {
		t.Error("go test of a package with a failing test succeeded")
	}
	got := map[string]string{}
	for line := range strings.Lines(string(output)) {
		var event struct{ Action, Test string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if event.Action == "pass" || event.Action == "fail" {
			got[event.Test] = event.Action
		}
	}
	for test, want := range map[string]string{"TestGood": "pass", "TestBad": "fail", "": "fail"} {
		if got[test] != want {
			t.Errorf("test %q: %q, want %q", test, got[test], want)
		}
	}
	if t.Failed() {
		t.Logf("the output was:\n%s", output)
	}
}
