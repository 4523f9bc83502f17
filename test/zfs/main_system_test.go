//go:build system

package zfs

import (
	"crypto/rand"
	"log/slog"
	"testing"

	"github.com/berth-storage/berth/internal/backend/zfs"
	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/test/vm"
)

func TestMain(m *testing.M) { vm.MainWith(m, vm.Options{ZFS: true, Memory: 1536}) }

// open opens a pool on this host, until the test ends.
func open(t *testing.T, o zfs.Options) *zfs.Backend {
	t.Helper()
	o.Local, o.Log = true, logger(t)
	if o.Runner == nil {
		o.Runner = run.Here{}
	}
	b, err := zfs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() }) // the test may have closed it
	return b
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// random are so many bytes that cannot be compressed.
func random(t *testing.T, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// spec is a request for a volume of so many bytes.
func spec(t *testing.T, name string, size int64) volume.Spec {
	t.Helper()
	n, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return volume.Spec{
		Name: n, Path: n.RelPath(), Size: size, Cluster: "cluster-1", Reclaim: volume.ReclaimDelete,
		Claim: volume.Claim{Namespace: "default", Name: "claim-" + name, UID: "uid-" + name}, Owner: volume.Owner{Mode: 0o777},
	}
}
