package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// progressEvery is the time between two lines of progress.
const progressEvery = 5 * time.Second

// build compiles the module in the folder source into the file target.
func build(ctx context.Context, source, target string, progress io.Writer) error {
	started := time.Now()
	fmt.Fprintf(progress, "building the Kubernetes %s control plane: this first build takes 5-15 minutes and is done once\n", Version)
	fmt.Fprintln(progress, "(it needs about 5 GB in Go's caches; what is in them, as after an interrupted build, is not compiled again)")

	// The go command, when interrupted, leaves gigabytes in its work folder.
	work := filepath.Join(filepath.Dir(target), "work")
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("removing what an interrupted build left: %w", err)
	}
	defer os.RemoveAll(work) // If that fails, the next build tells.
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("making the work folder of the build: %w", err)
	}

	common := []string{"-mod=readonly", "-trimpath"}
	packages, downloads := &lines{}, &lines{}
	list := goCommand(ctx, source, work, append([]string{"list", "-deps"}, common...))
	list.Stdout, list.Stderr = packages, downloads
	stop := every(progressEvery, func() {
		fmt.Fprintf(progress, "downloaded %d modules (%s)\n", downloads.count(), since(started))
	})
	err := runTied(list)
	stop()
	if err != nil {
		return buildError(ctx, "downloading the control plane's modules failed (is a Go module proxy reachable?)", err, downloads)
	}

	// Renamed into place, so that a half written file is never taken for the
	// binary.
	part := filepath.Join(work, "controlplane")
	compiled := &lines{}
	compile := goCommand(ctx, source, work, append([]string{"build", "-v", "-o", part, "-ldflags", linkerFlags()}, common...))
	compile.Stdout, compile.Stderr = compiled, compiled
	stop = every(progressEvery, func() {
		fmt.Fprintf(progress, "compiled %d of %d packages (%s)\n", compiled.count(), packages.count(), since(started))
	})
	err = runTied(compile)
	stop()
	if err != nil {
		return buildError(ctx, "building the control plane failed", err, compiled)
	}
	if err := os.Rename(part, target); err != nil {
		return fmt.Errorf("putting the control plane in its place: %w", err)
	}
	fmt.Fprintf(progress, "built %s in %s\n", target, since(started))
	return nil
}

// goCommand prepares the go command in the folder of the control plane's
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
func buildError(ctx context.Context, what string, err error, output *lines) error {
	if ctx.Err() != nil {
		return fmt.Errorf("building the control plane was interrupted (the next try goes on from there): %w", ctx.Err())
	}
	return fmt.Errorf("%s: %w\n%s", what, err, output.tail())
}

// since returns the time since a moment, in full seconds.
func since(start time.Time) time.Duration {
	return time.Since(start).Round(time.Second)
}

// every calls report again and again until the returned function is called.
func every(interval time.Duration, report func()) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// lines counts the lines written to it and keeps the last ones.
type lines struct {
	mu     sync.Mutex
	number int
	kept   []byte
}

// Write implements io.Writer.
func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number += bytes.Count(data, []byte("\n"))
	l.kept = lastLines(append(l.kept, data...), tailLines)
	return len(data), nil
}

// count returns the number of full lines seen.
func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// tail returns the last lines seen.
func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}
