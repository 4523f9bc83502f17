package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Version is the Kubernetes version of the control plane. It must be the one
// that test/controlplane/go.mod requires.
const Version = "v1.36.3"

// modulePath is the first line of the go.mod that marks Berth's source tree.
const modulePath = "module github.com/berth-storage/berth\n"

// sourceDir returns the folder of the program's Go module. The place of
// this file, which the compiler noted, is right under "go test" and "go run"
// whatever the working directory is; a binary built with -trimpath has no such
// note and looks from the working directory upwards.
func (p program) sourceDir() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	starts := []string{filepath.Dir(file)}
	if cwd, err := os.Getwd(); err == nil {
		starts = append(starts, cwd)
	}
	for _, start := range starts {
		if root, ok := moduleRoot(start); ok {
			return filepath.Join(root, "test", p.module), nil
		}
	}
	return "", fmt.Errorf("the source of the %s was not found: run this in Berth's source tree", p.title)
}

// moduleRoot walks up from start to the folder of Berth's go.mod.
func moduleRoot(start string) (string, bool) {
	if !filepath.IsAbs(start) {
		return "", false
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), modulePath) {
			return dir, true
		}
		if dir == filepath.Dir(dir) {
			return "", false
		}
	}
}

// sourceKey names the binary that the module in dir gives on this platform:
// it changes with everything that the binary is made of.
func (p program) sourceKey(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, p.pkg, "*.go")) // none if another module has the package
	if err != nil {
		return "", fmt.Errorf("listing the source of the %s: %w", p.title, err)
	}
	files = append(files, filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum"))
	slices.Sort(files)

	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s %s/%s\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("reading the source of the %s (is the source tree complete?): %w", p.title, err)
		}
		content := sha256.New()
		_, err = io.Copy(content, file)
		file.Close()
		if err != nil {
			return "", fmt.Errorf("reading the source of the %s: %w", p.title, err)
		}
		fmt.Fprintf(sum, "%x %s\n", content.Sum(nil), filepath.Base(name))
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}
