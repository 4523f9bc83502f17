//go:build system

package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// gate is a file that whoever opens waits for, as long as it is shut. See fanotify(7).
type gate struct {
	site   *site
	events *os.File
}

// shut shuts a file, until open is called or the test ends. The test itself must not open it meanwhile.
func (s *site) shut(file string) *gate {
	s.t.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	s.must(err)
	g := &gate{s, os.NewFile(uintptr(fd), "fanotify")}
	s.t.Cleanup(g.open)
	s.must(unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file))
	return g
}

// reached waits until somebody wants to open it.
func (g *gate) reached() {
	g.site.t.Helper()
	g.site.must(g.events.SetReadDeadline(time.Now().Add(patience)))
	event := make([]byte, unix.FAN_EVENT_METADATA_LEN) // for one of them
	_, err := g.events.Read(event)
	g.site.must(err)
	var who unix.FanotifyEventMetadata
	g.site.must(binary.Read(bytes.NewReader(event), binary.NativeEndian, &who))
	g.site.must(unix.Close(int(who.Fd)))
}

// open lets all in, for good. It may be called again.
func (g *gate) open() { _ = g.events.Close() }
