// Package debian knows the Debian that the tests run on, of whose packages they make
// guests and images.
package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Release is the code name of the release that runs here, as in "bookworm".
func Release() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release does not name a release: this needs Debian")
}

// Mirror is where apt has the packages of a release from.
func Mirror(ctx context.Context, release string) (string, error) {
	output, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Codename: "+release, "Component: main", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt for its mirror: %w", err)
	}
	first, _, _ := strings.Cut(string(output), "\n")
	if first == "" {
		return "", fmt.Errorf("this machine's package sources have no Debian %s (run apt-get update if they should)", release)
	}
	return first, nil
}
