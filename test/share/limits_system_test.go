//go:build system

package share

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/volumetest"
	"github.com/berth-storage/berth/test/vm"
)

// Quotas that the server's administrator sets, by projects of xfs and ext4, are the
// limits of volumes; others are advisory.
func TestQuotasOfTheServer(t *testing.T) {
	for _, fs := range []vm.FileSystem{vm.XFS, vm.Ext4} {
		t.Run(fs.Kind, func(t *testing.T) {
			disk := vm.NewFolder(t)
			if err := vm.MountNew(t.Context(), vm.Here{}, fs, disk, 400<<20); err != nil {
				t.Fatal(err)
			}
			// The server keeps files open for some time after the last use.
			undo(t, `umount -l "$1"`, disk)
			s := startKernelAt(t, disk, "no_root_squash")
			path := s.newShare(t)
			at := vm.NewFolder(t)
			vm.Sh(t, `mount -t nfs -o vers=4.2 "127.0.0.1:$1" "$2"`, path, at)
			undo(t, `umount "$1"`, at)
			b, err := dir.Open(t.Context(), at, dir.Options{Cluster: "west"})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			quotas(t, b, at, path)
		})
	}
}

func quotas(t *testing.T, b *dir.Backend, at, path string) {
	if b.Advisory() == nil {
		t.Error("sizes on a share are not said to be advisory")
	}
	const mib = 1 << 20
	spec := volumetest.Spec(t, "pvc-1")
	v, err := b.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Usage(t.Context(), v); !errors.Is(err, volume.ErrUnsupported) || v.Limit != volume.LimitNone {
		t.Errorf("without a quota: limit %q, %v", v.Limit, err)
	}
	onDisk, err := os.Open(filepath.Join(path, "pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer onDisk.Close()
	const project = 77
	limit := func(bytes uint64) { // as the server's administrator does
		t.Helper()
		q, err := quota.Open(onDisk)
		if err == nil {
			err = errors.Join(quota.SetProject(onDisk, project), q.SetLimit(project, quota.Amount{Bytes: bytes}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(16 * mib)
	if err := os.WriteFile(filepath.Join(path, "pvc-1", "file"), make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := b.Usage(t.Context(), v)
	if err != nil || u.LimitBytes != 16*mib || u.Bytes < 4*mib || u.Bytes > 5*mib {
		t.Errorf("with a quota of 16 MiB and 4 in it: %+v, %v", u, err)
	}
	v.Size = 16 * mib
	if v, err = b.Update(t.Context(), v); err != nil || v.Limit != dir.LimitServer {
		t.Fatalf("growing to the quota: limit %q, %v", v.Limit, err)
	}
	more := v
	more.Size = 32 * mib
	if _, err := b.Update(t.Context(), more); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("growing past the quota: %v", err)
	}
	limit(64 * mib)
	if v, err = b.Update(t.Context(), more); err != nil || v.Size != 32*mib {
		t.Errorf("when the quota was raised: %d bytes, %v", v.Size, err)
	}
	i, err := dir.Inspect(context.Background(), at, "west", dir.QuotaOff)
	if err != nil || len(i.Problems) > 0 {
		t.Errorf("berth volumes: %v, %v", i.Problems, err)
	}
	if err := errors.Join(b.Discard(t.Context(), spec.Name), b.Purge(t.Context(), spec.Name)); err != nil {
		t.Error(err)
	}
}
