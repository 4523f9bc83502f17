//go:build system

package e2e

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/berth-storage/berth/test/nfs4"
)

// The writer's file: blocks of 64 KiB, synced each MiB, 32 MiB in all.
const (
	blockSize  = 64 << 10
	syncBlocks = 1 << 20 / blockSize
	fileBlocks = 32 * syncBlocks
)

// Whichever of the server's processes dies, a client with an open file notices
// nothing but a pause.
func TestServerKilledUnderAWriter(t *testing.T) {
	t.Parallel() // with others that mostly wait
	for _, program := range []string{"ganesha.nfsd", "dbus-daemon"} {
		t.Run(program, func(t *testing.T) {
			s := newSite(t, "failover")
			s.options.Ganesha = "gracePeriod: 5s"
			b := s.start()
			pv := s.bind("data")
			writer := s.mount()
			handle, err := writer.FileHandle(t.Context(), pv.Spec.NFS.Path)
			s.must(err)
			victim, server := s.serverProcess(b, program), s.serverProcess(b, "ganesha.nfsd")

			file := pv.Spec.NFS.Path + "/file"
			s.writeWhile(writer, file,
				func() error { return syscall.Kill(victim, syscall.SIGKILL) },
				func() { s.newServerProcess(b, server) })
			s.checkFile(s.mount(), file)

			after, err := writer.FileHandle(t.Context(), pv.Spec.NFS.Path)
			s.must(err)
			if !bytes.Equal(after, handle) {
				t.Errorf("the export's file handle was %x and is now %x", handle, after)
			}
			s.bind("afterwards")
		})
	}
}

// blockOf is the content of the file's block i, unlike that of any other.
func blockOf(i int) []byte {
	block := make([]byte, blockSize)
	source := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
	_, _ = source.Read(block) // never fails
	return block
}

// writeWhile writes the file. When a fifth of it is written, and some of that not
// synced, kill is called beside; the last fifth is written when killed has returned.
func (s *site) writeWhile(c *nfs4.Client, file string, kill func() error, killed func()) {
	s.t.Helper()
	f, err := c.Create(s.t.Context(), file, 0o644)
	s.must(err)
	done := make(chan error, 1)
	var longest time.Duration
	for i := range fileBlocks {
		if i == fileBlocks/5*4 {
			s.must(<-done)
			killed()
		}
		began := time.Now()
		if _, err := f.WriteAt(s.t.Context(), blockOf(i), int64(i)*blockSize); err != nil {
			s.t.Fatalf("block %d: %v", i, err)
		}
		if i == fileBlocks/5 {
			go func() { done <- kill() }()
		}
		if i%syncBlocks == syncBlocks-1 {
			if err := f.Sync(s.t.Context()); err != nil {
				s.t.Fatalf("sync after block %d: %v", i, err)
			}
		}
		longest = max(longest, time.Since(began))
	}
	s.must(f.Close(s.t.Context()))
	s.t.Logf("the writer's longest pause was %.2f s", longest.Seconds())
}

// checkFile reads the file back.
func (s *site) checkFile(c *nfs4.Client, file string) {
	s.t.Helper()
	got, err := c.ReadFile(s.t.Context(), file)
	s.must(err)
	if len(got) != fileBlocks*blockSize {
		s.t.Fatalf("%d bytes are read back, %d were written", len(got), fileBlocks*blockSize)
	}
	for i := range fileBlocks {
		if !bytes.Equal(got[i*blockSize:(i+1)*blockSize], blockOf(i)) {
			s.t.Errorf("block %d is not what was written", i)
		}
	}
}
