// Package openzfs builds OpenZFS for the kernel of the test VM: its modules of Debian's
// sources of that very kernel and of zfs-dkms, and its programs of Debian's packages. The
// kernel itself is not built, so it is the one that all guests have.
package openzfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/test/cache"
	"github.com/berth-storage/berth/test/debian"
	"github.com/berth-storage/berth/test/progress"
	"github.com/berth-storage/berth/test/tied"
)

// Version is that of Debian's package zfs-dkms in the backports of its release 12. When
// they have another one, the build says so, and this is to be changed.
const Version = "2.3.2-2~bpo12+2"

// Kernel is a User-Mode Linux that is installed.
type Kernel struct {
	Program string // its file
	Modules string // the folder of its modules, named after its version
}

//go:embed build.sh
var buildScript []byte

//go:embed uml.patch
var umlPatch []byte

// Archive returns the path of a tar archive to unpack at the root of a guest with that
// kernel, by tar --keep-directory-symlink. It is made if it is not in the cache, which
// takes ten minutes of one processor and is told on log.
func Archive(ctx context.Context, kernel Kernel, log io.Writer) (string, error) {
	release, err := debian.Release()
	if err != nil {
		return "", err
	}
	kernelVersion := filepath.Base(kernel.Modules)
	sum := sha256.Sum256(bytes.Join([][]byte{[]byte(kernelVersion), []byte(Version), []byte(release), buildScript, umlPatch}, []byte("\n")))
	key := hex.EncodeToString(sum[:])[:16]
	return cache.File(ctx, "openzfs-"+key, "openzfs.tar", "OpenZFS for the test VM", log, func(path string) error {
		mirror, err := debian.Mirror(ctx, release)
		if err != nil {
			return err
		}
		return build(ctx, filepath.Dir(path), kernel, []string{kernel.Program, kernel.Modules, Version, release, mirror}, log)
	})
}

// build runs the script in a folder.
func build(ctx context.Context, folder string, kernel Kernel, args []string, log io.Writer) error {
	var symbols bytes.Buffer
	if err := writeSymbols(&symbols, kernel.Program); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"Module.symvers": symbols.Bytes(), "uml.patch": umlPatch, "build.sh": buildScript} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(log, "building OpenZFS %s for the test VM: this takes 5 to 10 minutes and is done once\n", Version)
	started, steps, output := time.Now(), &lastLine{}, &progress.Lines{}
	cmd := exec.Command("sh", append([]string{"build.sh"}, args...)...)
	cmd.Dir = folder
	cmd.Stdout, cmd.Stderr = steps, output
	// In a name space of their own the processes of the build all end with the first one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	process, err := tied.Start(cmd)
	if err != nil {
		return err
	}
	defer process.Kill()
	stop := progress.Every(func() {
		fmt.Fprintf(log, "OpenZFS: %s (%d lines of output, %s)\n", steps, output.Count(), progress.Since(started))
	})
	defer stop()
	if err := process.Wait(ctx); err != nil {
		return fmt.Errorf("building OpenZFS %s for the test VM: %s: %w\n%s", Version, steps, err, output.Tail())
	}
	fmt.Fprintf(log, "built OpenZFS %s for the test VM in %s\n", Version, progress.Since(started))
	return nil
}

// lastLine is the last line that was written to it.
type lastLine struct {
	mu   sync.Mutex
	line string
}

func (l *lastLine) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = strings.TrimSpace(string(progress.Last(text, 1)))
	return len(text), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}
