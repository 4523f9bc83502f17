package main

import (
	"slices"
	"testing"
)

func TestLanes(t *testing.T) {
	t.Chdir("../..")
	all, err := lanes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for pkg, lane := range map[string]int{
		"test/e2e": 0, "internal/backend/dir": 0,
		"test/vm": 1, "test/node": 1, "test/share/hung": 1, "internal/export/kernel": 1,
		"internal/kube": -1, "scripts/gotest": -1, // no system tests
	} {
		for i, args := range all {
			if got, want := slices.Contains(args, module+pkg), i == lane; got != want {
				t.Errorf("%s in lane %d: got %v, want %v", pkg, i, got, want)
			}
		}
	}
}

func TestSplitTakesEachPackageWithSystemTestsOnce(t *testing.T) {
	plain := []goPackage{{ImportPath: "unit", TestGoFiles: []string{"a_test.go"}}, {ImportPath: "more", TestGoFiles: []string{"a_test.go"}}}
	tagged := []goPackage{
		plain[0],
		{ImportPath: "more", TestGoFiles: []string{"a_test.go"}, XTestGoFiles: []string{"b_test.go"}},
		{ImportPath: "only", TestGoFiles: []string{"a_test.go"}, TestImports: []string{machines}},
		{ImportPath: "none"},
	}
	onHost, inMachines := split(plain, tagged)
	if !slices.Equal(onHost, []string{"more"}) || !slices.Equal(inMachines, []string{"only"}) {
		t.Errorf("got %q and %q", onHost, inMachines)
	}
}
