package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionIsThatOfTheModule(t *testing.T) {
	source, err := controlPlane.sourceDir()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "k8s.io/kubernetes " + Version + "\n"; !strings.Contains(string(content), want) {
		t.Errorf("test/controlplane/go.mod does not require %q", want)
	}
}

func TestSourceKey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		t.Helper()
		key, err := controlPlane.sourceKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}

	if _, err := controlPlane.sourceKey(dir); err == nil {
		t.Error("a folder without source has a key")
	}
	write("go.mod", "module x")
	write("go.sum", "")
	write("main.go", "package main")
	seen := map[string]string{key(): "the first source"}
	for _, change := range []struct{ name, content string }{
		{"go.mod", "module y"},
		{"go.sum", "a sum"},
		{"main.go", "package  main"},
		{"other.go", "package main"},
	} {
		write(change.name, change.content)
		got := key()
		if before, ok := seen[got]; ok {
			t.Errorf("changing %s gives the key of %s", change.name, before)
		}
		seen[got] = "the change of " + change.name
	}
	before := key()
	write("README.md", "not part of the binary")
	if got := key(); got != before {
		t.Errorf("a README changes the key from %s to %s", before, got)
	}
}

func TestModuleRootSkipsNestedModules(t *testing.T) {
	root := t.TempDir()
	nested := filepath.Join(root, "test", "controlplane")
	if err := os.MkdirAll(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, content := range map[string]string{
		root:   modulePath + "\ngo 1.26.0\n",
		nested: strings.TrimSuffix(modulePath, "\n") + "/test/controlplane\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := moduleRoot(nested); !ok || got != root {
		t.Errorf("moduleRoot = %q, %v, want %q", got, ok, root)
	}
	if got, ok := moduleRoot(filepath.Dir(root)); ok {
		t.Errorf("a root was found outside of the source tree: %q", got)
	}
	if got, ok := moduleRoot("github.com/berth-storage/berth/test/cluster"); ok {
		t.Errorf("a root was found from a path that is not one of a file: %q", got)
	}
}

func TestBinaryIsTakenFromTheCache(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("BERTH_CACHE", cache)
	source, err := controlPlane.sourceDir()
	if err != nil {
		t.Fatal(err)
	}
	key, err := controlPlane.sourceKey(source)
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(cache, "controlplane-"+key, "controlplane")
	if err := os.MkdirAll(filepath.Dir(want), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, []byte("a binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // The working directory must not matter.
	var progress strings.Builder
	got, err := Binary(t.Context(), &progress)
	if err != nil || got != want {
		t.Errorf("Binary = %q, %v, want %q", got, err, want)
	}
	if progress.Len() > 0 {
		t.Errorf("taking it from the cache says %q", progress.String())
	}
}
