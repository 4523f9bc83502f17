package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-storage/berth/test/vm/wire"
)

// insideVariable says to a test binary that it runs in a guest.
const insideVariable = "BERTH_TEST_VM"

// Main runs all tests of a package in one guest, as root:
//
//	func TestMain(m *testing.M) { vm.Main(m) }
//
// The package's test binary starts a guest, runs itself in there with the same flags,
// and ends as that does; so each test counts, and -run, -v and -timeout work as ever.
// The guest shows Berth's source tree at the same path as the host, read-only.
// Temporary files are on its disk.
func Main(m *testing.M) { MainWith(m, Options{}) }

// MainWith is Main in a guest of these options.
func MainWith(m *testing.M, options Options) {
	if os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}
	err := runInside(context.Background(), os.Args, options)
	if exit, ok := errors.AsType[*ExitError](err); ok && exit.Code > 0 {
		os.Exit(exit.Code) // the tests have said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

// runInside runs this test binary in a guest.
func runInside(ctx context.Context, args []string, options Options) (err error) {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	folder, err := os.Getwd() // go test starts a test in the folder of its package
	if err != nil {
		return err
	}
	options.Log = os.Stderr
	g, err := Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	if err := g.showTree(ctx, folder); err != nil {
		return err
	}
	const inside = "/usr/local/bin/package.test"
	if err := g.Put(ctx, binary, inside); err != nil {
		return err
	}
	return g.Exec(ctx, Command{
		Args: append([]string{inside}, insideFlags(args[1:])...), Dir: folder,
		Env: []string{insideVariable + "=1", "TMPDIR=/var/tmp"}, Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

// insideFlags are the flags of a test binary without those that name files of the host,
// with which go test finds out on what the result depends.
func insideFlags(flags []string) []string {
	var kept []string
	for _, f := range flags {
		if !strings.HasPrefix(f, "-test.testlogfile=") && !strings.HasPrefix(f, "-test.gocoverdir=") {
			kept = append(kept, f)
		}
	}
	return kept
}

// showTree shows the guest the source tree that folder is in.
func (g *Guest) showTree(ctx context.Context, folder string) error {
	root := folder
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return fmt.Errorf("%s is not in a Go module", folder)
		}
		root = filepath.Dir(root)
	}
	_, err := g.Run(ctx, "sh", "-ec", `mkdir -p "$1"; mount -t hostfs -o "ro,$1" none "$1"`, "sh", root)
	return err
}

// Share is where the guest sees the folder that it shares with the host.
const Share = wire.Share
