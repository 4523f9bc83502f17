package copytree_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/copytree"
)

// segments are where data is in a file.
func segments(t testing.TB, path string) (all [][2]int64) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	for at := int64(0); ; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return all
		}
		must(t, err)
		at, err = f.Seek(start, unix.SEEK_HOLE)
		must(t, err)
		all = append(all, [2]int64{start, at})
	}
}

// layOut writes a file as a script of three bytes each says: what to do, where, how much.
func layOut(t testing.TB, path string, script []byte) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	for i := 0; i+2 < len(script) && i < 60; i += 3 {
		at, length := int64(script[i+1])*10_000, int64(script[i+2])*3_000+1
		switch script[i] % 5 {
		case 0, 1:
			_, err = f.WriteAt(bytesOf(int(length)), at)
		case 2:
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length)
		case 3:
			err = f.Truncate(at + length%7)
		case 4:
			_, err = f.WriteAt(make([]byte, length), at) // zeros that are data
		}
		must(t, err)
	}
	// What is written and what is only in memory has the same holes only after this.
	must(t, f.Sync(), f.Close())
}

func checkHoles(t *testing.T, top string, script []byte) {
	t.Helper()
	from := mkdir(t, top, "from")
	layOut(t, filepath.Join(from, "file"), script)
	wanted, err := os.ReadFile(filepath.Join(from, "file"))
	must(t, err)
	for name, sharing := range map[string]copytree.Sharing{"possible": copytree.ShareIfPossible, "never": copytree.ShareNever} {
		to := mkdir(t, top, name)
		copyTree(t, from, to, copytree.Options{Sharing: sharing})
		got, err := os.ReadFile(filepath.Join(to, "file"))
		must(t, err)
		if !bytes.Equal(got, wanted) {
			t.Errorf("shared if %s, the copy has %d bytes, which are not those of the source's %d", name, len(got), len(wanted))
		}
		a, b := segments(t, filepath.Join(from, "file")), segments(t, filepath.Join(to, "file"))
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("shared if %s, the copy has data at %v, the source at %v", name, b, a)
		}
	}
}

var layouts = [][]byte{
	{},
	{0, 0, 1},
	{3, 200, 1},
	{0, 100, 0, 3, 255, 3},
	{0, 0, 100, 2, 3, 20, 3, 90, 0},
	{4, 0, 50, 0, 100, 1, 2, 0, 9},
	{0, 7, 255, 0, 200, 255, 2, 20, 30, 2, 210, 1, 3, 255, 6, 4, 250, 1},
}

func FuzzHoles(f *testing.F) {
	for _, script := range layouts {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) { checkHoles(t, t.TempDir(), script) })
}
