package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/berth-storage/berth/test/progress"
	"github.com/berth-storage/berth/test/tied"
)

// build compiles the program of the module in the folder source into the file target.
func (p program) build(ctx context.Context, source, target string, log io.Writer) error {
	started := time.Now()
	fmt.Fprintf(log, "building the %s: this first build takes %s, and is done once\n", p.title, p.takes)
	fmt.Fprintln(log, "(what is in the caches, as after an interrupted build, is not compiled again)")

	// The go command, when interrupted, leaves gigabytes in its work folder: here
	// they are removed with the target's.
	work := filepath.Dir(target)
	common := []string{"-mod=readonly", "-trimpath", p.pkg}
	packages, downloads := &progress.Lines{}, &progress.Lines{}
	list := goCommand(ctx, source, work, append([]string{"list", "-deps"}, common...))
	list.Stdout, list.Stderr = packages, downloads
	stop := progress.Every(func() {
		fmt.Fprintf(log, "downloaded %d modules (%s)\n", downloads.Count(), progress.Since(started))
	})
	err := tied.Run(list)
	stop()
	if err != nil {
		return p.buildError(ctx, "downloading its modules failed (is a Go module proxy reachable?)", err, downloads)
	}

	compiled := &progress.Lines{}
	compile := goCommand(ctx, source, work, append([]string{"build", "-v", "-o", target, "-ldflags", linkerFlags()}, common...))
	compile.Stdout, compile.Stderr = compiled, compiled
	stop = progress.Every(func() {
		fmt.Fprintf(log, "compiled %d of %d packages (%s)\n", compiled.Count(), packages.Count(), progress.Since(started))
	})
	err = tied.Run(compile)
	stop()
	if err != nil {
		return p.buildError(ctx, "compiling it failed", err, compiled)
	}
	fmt.Fprintf(log, "built the %s in %s\n", p.title, progress.Since(started))
	return nil
}

// goCommand prepares the go command in the folder of the program's
// module. Neither a Go workspace around it nor a user's settings for other
// platforms may change what is built.
func goCommand(ctx context.Context, source, work string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH, "GOTMPDIR="+work)
	return cmd
}

// linkerFlags make the binary report Version; a build from Go modules alone
// would call itself v0.0.0, which clients take for a very old server.
func linkerFlags() string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(Version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, value := range []string{
			"gitVersion=" + Version, "gitMajor=" + major, "gitMinor=" + minor,
			"gitCommit=modproxy", "gitTreeState=clean", "buildDate=1970-01-01T00:00:00Z",
		} {
			flags = append(flags, "-X", pkg+"."+value)
		}
	}
	return strings.Join(flags, " ")
}

// buildError adds the end of the go command's output to its failure.
func (p program) buildError(ctx context.Context, what string, err error, output *progress.Lines) error {
	if ctx.Err() != nil {
		return fmt.Errorf("building the %s was interrupted (the next try goes on from there): %w", p.title, ctx.Err())
	}
	return fmt.Errorf("building the %s: %s: %w\n%s", p.title, what, err, output.Tail())
}
