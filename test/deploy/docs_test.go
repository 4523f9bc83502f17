//go:build system

package deploy

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/internal/config"
)

// blocks are the code blocks of a page in docs/deploy that are marked with language.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	return blocksOf(t, filepath.Join("deploy", page), language)
}

// blocksOf is blocks for any page in docs.
func blocksOf(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shared.repository, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, block := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found = append(found, block[1])
	}
	return found
}

// elsewhere are programs in the pages that are for another machine than this one.
var elsewhere = []string{"apt-get", "chcon", "install", "make", "ssh-keygen", "ssh-keyscan", "systemctl", "zfs"}

// follow does what a page says, in its order, on the nodes.
func (s *site) follow(page string, nodes ...*node) {
	s.t.Helper()
	ran := 0
	for _, block := range blocks(s.t, page, "console") {
		for command := range strings.Lines(block) {
			command = strings.TrimSpace(command)
			words := strings.Fields(command)
			switch {
			case words[0] == "kubectl":
				s.shell(command, nodes)
				ran++
			case words[0] == "mkdir" && words[1] == "-p":
				for _, n := range nodes {
					for _, path := range words[2:] {
						n.mkdir(s.t, path)
					}
				}
			case words[0] == "podman" && words[1] == "run", words[0] == "docker" && words[1] == "run", words[0] == "berth":
				s.flags(words)
			case words[0] == "podman", slices.Contains(elsewhere, words[0]):
			default:
				s.t.Errorf("%s: nobody knows what to do about: %s", page, command)
			}
		}
	}
	s.t.Logf("%s: ran %d commands", page, ran)
}

// shell runs a line of a page, once for each node if it names one.
func (s *site) shell(command string, nodes []*node) {
	s.t.Helper()
	names := []string{""}
	if strings.Contains(command, "$NODE") {
		names = nil
		for _, n := range nodes {
			names = append(names, n.name)
		}
	}
	for _, name := range names {
		ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Dir = shared.repository
		cmd.Env = append(os.Environ(), "PATH="+shared.cluster.Dir+":"+os.Getenv("PATH"), "NODE="+name)
		if output, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("%s: %v\n%s", command, err, output)
		}
	}
}

// flags checks the flags of nfs-provisioner in a command line: they begin with
// -provisioner in the pages.
func (s *site) flags(words []string) {
	s.t.Helper()
	first := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-provisioner=") })
	if first < 0 {
		s.t.Errorf("no -provisioner in %q", words)
		return
	}
	if _, err := config.FromNFSProvisioner(words[first:], io.Discard); err != nil {
		s.t.Errorf("%q: %v", words, err)
	}
}

// The pages are followed to the letter, from an empty cluster back to an empty one.
func TestPages(t *testing.T) {
	pages := map[string]int{"nfs-subdir.md": 0, "zfs.md": 0, "deployment.md": 1, "daemonset.md": 2, "pod.md": 1, "statefulset.md": 1, "openshift.md": 1, "outside.md": 0, "README.md": 0}
	files, err := filepath.Glob(filepath.Join(shared.repository, "docs", "deploy", "*.md"))
	if err != nil || len(files) != len(pages) {
		t.Errorf("there are %d pages in docs/deploy, and %d are tested (%v)", len(files), len(pages), err)
	}
	for page, nodes := range pages {
		t.Run(page, func(t *testing.T) {
			s := newSite(t)
			var all []*node
			for range nodes {
				all = append(all, s.node())
			}
			switch page {
			case "statefulset.md":
				s.disk(all[0])
			case "openshift.md":
				s.openShift()
			case "nfs-subdir.md":
				s.shareNode("nfs.example.com:/srv/share")
			case "zfs.md":
				s.followsWithZFS()
			case "outside.md":
				t.Cleanup(func() { s.must(os.Remove(filepath.Join(shared.repository, "berth.kubeconfig"))) })
			}
			t.Cleanup(func() {
				if t.Failed() {
					s.showLogs()
				}
			})
			before := s.volumes()
			s.follow(page, all...)
			s.until("nothing is left", func() bool {
				_, err := shared.client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
				return apierrors.IsNotFound(err) && len(s.volumes()) == len(before)
			})
		})
	}
}

// volumes are the PersistentVolumes, Berth's and others.
func (s *site) volumes() []v1.PersistentVolume {
	s.t.Helper()
	list, err := shared.client.CoreV1().PersistentVolumes().List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	return list.Items
}

// The kustomization that a page shows changes all that it says.
func TestKustomizationOfThePage(t *testing.T) {
	rendered := newSite(t).renderShown("README.md")
	for _, want := range []string{
		"image: registry.example.com/berth:v1", "- -provisioner=storage.example.com/nfs", "provisioner: storage.example.com/nfs", "path: /mnt/data",
		"kind: Namespace\nmetadata:\n  labels:\n    pod-security.kubernetes.io/enforce: privileged\n  name: storage",
		"subjects:\n- kind: ServiceAccount\n  name: berth\n  namespace: storage",
	} {
		if !strings.Contains(rendered, want) {
			t.Errorf("it does not give %q", want)
		}
	}
	for _, unwanted := range []string{"namespace: berth\n", "=example.com/nfs", "/srv/berth"} {
		if strings.Contains(rendered, unwanted) {
			t.Errorf("it leaves %q", unwanted)
		}
	}
}

// So does that of the page about shares.
func TestKustomizationOfTheShare(t *testing.T) {
	rendered := newSite(t).renderShown("nfs-subdir.md")
	for want, times := range map[string]int{
		"image: registry.example.com/berth-nfs-subdir:v1": 1, "value: storage.example.com/nas": 1, "value: 10.0.0.7": 1, "server: 10.0.0.7": 1,
		"value: /volume1/kubernetes": 1, "path: /volume1/kubernetes": 1, "provisioner: storage.example.com/nas": 1, "example.com/share": 0, "/srv/share": 0,
	} {
		if n := strings.Count(rendered, want); n != times {
			t.Errorf("it has %q %d times, want %d", want, n, times)
		}
	}
}

// And that of the page about hosts with ZFS.
func TestKustomizationOfTheZFSHost(t *testing.T) {
	rendered := newSite(t).renderShown("zfs.md")
	for want, times := range map[string]int{
		"image: registry.example.com/berth-zfs:v1": 1, "provisioner: storage.example.com/zfs": 1, "# my own": 1, "example.com/zfs\n": 1, "tank/kubernetes": 0,
	} {
		if n := strings.Count(rendered, want); n != times {
			t.Errorf("it has %q %d times, want %d", want, n, times)
		}
	}
}

// renderShown gives what the one kustomization that a page shows makes of the manifests,
// which has to be valid.
func (s *site) renderShown(page string) string {
	s.t.Helper()
	shown := slices.DeleteFunc(blocks(s.t, page, "yaml"), func(text string) bool { return !strings.Contains(text, "kind: Kustomization\n") })
	if len(shown) != 1 {
		s.t.Fatalf("the page shows %d kustomizations, want 1", len(shown))
	}
	folder := s.t.TempDir()
	relative, err := filepath.Rel(folder, shared.repository)
	s.must(err)
	text := strings.ReplaceAll(shown[0], "../berth/", relative+"/")
	s.must(os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o600))
	if strings.Contains(text, "berth.yaml") { // the user's own
		s.must(os.WriteFile(filepath.Join(folder, "berth.yaml"), []byte("# my own\n"), 0o600))
	}
	rendered := s.kubectl("kustomize", folder)
	_, err = shared.cluster.KubectlApply(s.t.Context(), []byte(rendered), "--dry-run=client", "--validate=strict")
	s.must(err)
	return rendered
}

// The configuration that a page shows is the sample that it names.
func TestSamplesOfThePages(t *testing.T) {
	for page, name := range map[string]string{"outside.md": "systemd.yaml", "zfs.md": "zfs-host.yaml"} {
		sample, err := os.ReadFile(filepath.Join(shared.repository, "docs", "samples", name))
		if shown := blocks(t, page, "yaml"); err != nil || !slices.Contains(shown, string(sample)) {
			t.Errorf("%s shows %q, the sample is %q, %v", page, shown, sample, err)
		}
	}
}
