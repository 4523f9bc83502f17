package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
)

const (
	// machines is the package by which tests have virtual machines.
	machines = module + "test/vm"
	// systemTimeout is for all tests of one package.
	systemTimeout = "-timeout=60m"
)

// lanes are the arguments of the runs of `go test`, side by side, for the tests with the build tag system. A package
// without such tests is in none: its tests have run. Those on the host share ports, mounts and rpcbind, so
// they take turns. A virtual machine shares nothing, and has one processor: two of these at a time.
func lanes(ctx context.Context) ([][]string, error) {
	plain, err := list(ctx)
	if err != nil {
		return nil, err
	}
	tagged, err := list(ctx, "-tags=system")
	if err != nil {
		return nil, err
	}
	onHost, inMachines := split(plain, tagged)
	common := []string{"-tags=system", "-vet=off", "-count=1", systemTimeout} // lint has run go vet
	return [][]string{
		slices.Concat(common, []string{"-p=1"}, onHost),
		slices.Concat(common, []string{"-p=2"}, inMachines),
	}, nil
}

// split gives the packages that have more test files with the tag than without.
func split(plain, tagged []goPackage) (onHost, inMachines []string) {
	unit := map[string]int{}
	for _, p := range plain {
		unit[p.ImportPath] = p.testFiles()
	}
	for _, p := range tagged {
		switch {
		case p.testFiles() == unit[p.ImportPath]:
		case p.ImportPath == machines || slices.Contains(slices.Concat(p.Imports, p.TestImports, p.XTestImports), machines):
			inMachines = append(inMachines, p.ImportPath)
		default:
			onHost = append(onHost, p.ImportPath)
		}
	}
	return onHost, inMachines
}

// goPackage is what this program wants to know of a package; see `go help list`.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	TestGoFiles, XTestGoFiles          []string
}

func (p goPackage) testFiles() int { return len(p.TestGoFiles) + len(p.XTestGoFiles) }

// list lists all packages of the module.
func list(ctx context.Context, flags ...string) (all []goPackage, err error) {
	args := slices.Concat([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,TestGoFiles,XTestGoFiles"}, flags, []string{"./..."})
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}
