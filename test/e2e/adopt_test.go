//go:build system

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/nfs4"
)

// legacy is a site where nfs-provisioner has been at work.
type legacy struct {
	*site
	harness.Predecessor
	server *harness.Process
}

const legacyIdentity = "6b0a4c5e-7a37-4f0e-9a53-1d5c35b3a6f1"

func newLegacy(t *testing.T, name string) *legacy {
	t.Helper()
	s := newSite(t, name)
	return &legacy{site: s, Predecessor: harness.Predecessor{Root: s.options.Root, Identity: legacyIdentity, FSIDDevice: "true"}}
}

// volume makes a claim and its volume, Bound, as nfs-provisioner would, and gives the
// name of the PersistentVolume. edit may make it something else.
func (l *legacy) volume(claim string, id int, policy v1.PersistentVolumeReclaimPolicy, edit func(pv *v1.PersistentVolume)) string {
	l.t.Helper()
	c, err := l.client.CoreV1().PersistentVolumeClaims(l.name).Create(l.t.Context(), harness.NewClaim(l.name, claim, l.name), metav1.CreateOptions{})
	l.must(err)
	name := "pvc-" + string(c.UID)
	block, err := l.Add(name, id, "no_root_squash")
	l.must(err)
	l.must(os.WriteFile(filepath.Join(l.Root, name, "file"), []byte("data of "+claim), 0o666))
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"kubernetes.io/createdby":         "nfs-dynamic-provisioner",
			"pv.kubernetes.io/provisioned-by": l.options.Provisioner,
			"EXPORT_block":                    block,
			"Export_Id":                       strconv.Itoa(id),
			"Project_block":                   "",
			"Project_Id":                      "0",
			"Provisioner_Id":                  l.Identity,
		}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: l.name, AccessModes: c.Spec.AccessModes, MountOptions: []string{"vers=3"},
			Capacity:                      v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeReclaimPolicy: policy,
			ClaimRef:                      &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: l.name, Name: claim, UID: c.UID},
			PersistentVolumeSource:        v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: "127.0.0.1", Path: filepath.Join(l.Root, name)}},
		},
	}
	if l.Identity == "" {
		delete(pv.Annotations, "Provisioner_Id")
	}
	if edit != nil {
		edit(pv)
	}
	_, err = l.client.CoreV1().PersistentVolumes().Create(l.t.Context(), pv, metav1.CreateOptions{})
	l.must(err)
	l.bound(claim)
	return name
}

// serve has nfs-provisioner's server serve what there is.
func (l *legacy) serve() {
	l.t.Helper()
	l.must(l.Write())
	var err error
	l.server, err = l.Serve(newFolder(l.t), l.options.NFSPort)
	l.must(err)
	l.t.Cleanup(l.server.Kill)
}

// before is what a client holds of a volume that it has mounted.
type before struct {
	handle []byte
	attr   nfs4.Attr
}

func (l *legacy) look(c *nfs4.Client, file string) before {
	l.t.Helper()
	handle, err := c.FileHandle(l.t.Context(), file)
	l.must(err)
	attr, err := c.StatHandle(l.t.Context(), handle)
	l.must(err)
	return before{handle, attr}
}

// The move from nfs-provisioner: its program is replaced, and nothing else. The rights
// are those of its own ClusterRole.
func TestAdoption(t *testing.T) {
	l := newLegacy(t, "adoption")
	const deleted, retained = v1.PersistentVolumeReclaimDelete, v1.PersistentVolumeReclaimRetain
	kept, gone, retain := l.volume("kept", 1, deleted, nil), l.volume("gone", 2, deleted, nil), l.volume("retained", 3, retained, nil)
	released := l.volume("released", 7, deleted, nil)
	l.must(os.Mkdir(filepath.Join(l.Root, "stray"), 0o755))
	l.must(os.WriteFile(filepath.Join(l.Root, "stray", "file"), []byte("mine"), 0o644))
	l.serve()
	c := l.mount()
	file := filepath.Join(l.Root, kept, "file")
	had := l.look(c, file)
	open, err := c.OpenFile(t.Context(), file, os.O_RDWR, 0)
	l.must(err)

	// Nobody deletes a claim's volume while no provisioner runs.
	l.server.Kill()
	l.deleteClaim("released")
	l.until("the PersistentVolume is Released", func() bool {
		return slices.ContainsFunc(l.watch.Volumes(), func(pv *v1.PersistentVolume) bool {
			return pv.Name == released && pv.Status.Phase == v1.VolumeReleased
		})
	})
	l.options.Kubeconfig = l.oldRole()
	b := l.startDropIn()

	// What was mounted stays mounted, what was open stays open.
	if attr, err := c.StatHandle(t.Context(), had.handle); err != nil || attr.FSID != had.attr.FSID || attr.FileID != had.attr.FileID {
		t.Errorf("the handle that a client had gives %v, %v; it was %v", attr, err, had.attr)
	}
	if _, err := open.WriteAt(t.Context(), []byte("DATA"), 0); err != nil {
		t.Errorf("writing to the file that a client had open: %v", err)
	}
	l.must(open.Close(t.Context()))
	if text, err := l.mount().ReadFile(t.Context(), file); err != nil || string(text) != "DATA of kept" {
		t.Errorf("the file reads %q, %v", text, err)
	}
	l.volumeGone(released)
	l.untilPurged(released)

	// From here on they are as Berth's own.
	l.deleteClaim("gone")
	l.volumeGone(gone)
	l.untilPurged(gone)
	l.deleteClaim("retained")
	l.comeAndGo("new")
	if attr, err := c.Stat(t.Context(), filepath.Join(l.Root, gone)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the export of a deleted volume answers %v, %v", attr, err)
	}
	l.checkLeft(c, kept, retain)
	l.must(b.Stop())
	l.startDropIn()
	l.checkLeft(c, kept, retain)
	if text, err := os.ReadFile(filepath.Join(l.Root, "stray", "file")); err != nil || string(text) != "mine" {
		t.Errorf("what no PersistentVolume named reads %q, %v", text, err)
	}
}

// checkLeft checks that exactly these volumes are there: directory, record, export.
func (l *legacy) checkLeft(c *nfs4.Client, want ...string) {
	l.t.Helper()
	slices.Sort(want)
	have := l.contents()
	if !slices.Equal(have.records, want) {
		l.t.Errorf("records are %v, want %v", have.records, want)
	}
	for _, name := range want {
		if text, err := c.ReadFile(l.t.Context(), filepath.Join(l.Root, name, "file")); err != nil || !strings.Contains(string(text), "of") {
			l.t.Errorf("the file of %s reads %q, %v", name, text, err)
		}
	}
	if exports := l.exportsOf(c); !slices.Equal(exports, want) {
		l.t.Errorf("exports are %v, want %v", exports, want)
	}
}

// exportsOf are the names that a client sees below the root.
func (l *legacy) exportsOf(c *nfs4.Client) (names []string) {
	l.t.Helper()
	entries, err := c.ReadDir(l.t.Context(), l.Root)
	l.must(err)
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// oldRole gives a kubeconfig with the rights of nfs-provisioner 1.0.3's ClusterRole.
func (l *legacy) oldRole() string {
	l.t.Helper()
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	return l.withRole(
		rule("", "persistentvolumes", "get", "list", "watch", "create", "delete"),
		rule("", "persistentvolumeclaims", "get", "list", "watch", "update"),
		rule("storage.k8s.io", "storageclasses", "get", "list", "watch"),
		rule("", "events", "list", "watch", "create", "update", "patch"),
		rule("", "services", "get"), rule("", "endpoints", "get"),
	)
}

// withRole gives a kubeconfig of a service account that may do what rules say.
func (s *site) withRole(rules ...rbacv1.PolicyRule) string {
	s.t.Helper()
	ctx, meta := s.t.Context(), metav1.ObjectMeta{Name: s.name}
	_, err := s.client.CoreV1().ServiceAccounts(s.name).Create(ctx, &v1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: s.name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.name, Name: s.name}},
	}, metav1.CreateOptions{})
	s.must(err)
	token, err := s.client.CoreV1().ServiceAccounts(s.name).CreateToken(ctx, s.name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	config, err := clientcmd.LoadFromFile(s.kubeconfig)
	s.must(err)
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{config.Contexts[config.CurrentContext].AuthInfo: {Token: token.Status.Token}}
	file := filepath.Join(s.t.TempDir(), "kubeconfig")
	s.must(clientcmd.WriteToFile(*config, file))
	return file
}

// Whatever a PersistentVolume says, it gets nobody else's data deleted or exported.
func TestHostileVolumesAreNotAdopted(t *testing.T) {
	l := newLegacy(t, "hostile")
	const policy = v1.PersistentVolumeReclaimDelete
	victim := l.volume("victim", 1, policy, nil)
	// By claim. Each of them has a directory of its own, whatever it says.
	hostile := map[string]func(pv *v1.PersistentVolume){
		"parent":    func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = l.Root + "/../etc" },
		"elsewhere": func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = "/etc" },
		"root":      func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = l.Root },
		"victims":   func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = filepath.Join(l.Root, victim) },
		"berths":    func(pv *v1.PersistentVolume) { pv.Spec.NFS.Path = filepath.Join(l.Root, ".berth") },
		"braces": func(pv *v1.PersistentVolume) {
			pv.Annotations["EXPORT_block"] += "EXPORT { Export_Id = 99; Path = /etc; Pseudo = /etc; }"
		},
		"zero":      func(pv *v1.PersistentVolume) { pv.Annotations["Export_Id"] = "0" },
		"reserved":  func(pv *v1.PersistentVolume) { pv.Annotations["Export_Id"] = "152" },
		"too-large": func(pv *v1.PersistentVolume) { pv.Annotations["Export_Id"] = "70000" },
		"text":      func(pv *v1.PersistentVolume) { pv.Annotations["Export_Id"] = "1; Path = /" },
		"same-id": func(pv *v1.PersistentVolume) {
			pv.Annotations["Export_Id"], pv.Annotations["EXPORT_block"] = "1", l.Block(pv.Name, 1, "no_root_squash")
		},
		"foreign": func(pv *v1.PersistentVolume) {
			pv.Annotations["Provisioner_Id"] = "11111111-2222-4333-8444-555555555555"
		},
		"nobodys": func(pv *v1.PersistentVolume) { delete(pv.Annotations, "Provisioner_Id") },
	}
	id := 2
	dirs := []string{victim}
	for _, claim := range slices.Sorted(maps.Keys(hostile)) {
		dirs = append(dirs, l.volume(claim, id, policy, hostile[claim]))
		id++
	}
	link := l.volume("link", id, policy, nil)
	l.must(os.RemoveAll(filepath.Join(l.Root, link)))
	l.must(os.Symlink(victim, filepath.Join(l.Root, link)))
	l.must(l.Write())
	l.startDropIn()
	c := l.mount()
	l.checkLeft(c, victim)
	for claim := range hostile {
		l.deleteClaim(claim)
	}
	l.deleteClaim("link")
	l.comeAndGo("new") // in which time all of them were looked at
	l.checkLeft(c, victim)
	for _, name := range dirs {
		if _, err := os.Stat(filepath.Join(l.Root, name, "file")); err != nil {
			t.Errorf("a hostile PersistentVolume had data deleted: %v", err)
		}
	}
}

// The explicit run, on a root of the first version, whose Berth is told by a
// configuration file.
func TestAdoptCommand(t *testing.T) {
	l := newLegacy(t, "command")
	l.Identity, l.FSIDDevice = "", ""
	name := l.volume("data", 4, v1.PersistentVolumeReclaimDelete, nil)
	l.serve()
	c := l.mount()
	had := l.look(c, filepath.Join(l.Root, name, "file"))

	file := filepath.Join(t.TempDir(), "berth.yaml")
	l.must(os.WriteFile(file, fmt.Appendf(nil, "pools:\n- {name: local, provisioner: %s, dir: {root: %s}, exportPath: %[2]s}\nkubernetes: {kubeconfig: %s}\n",
		l.options.Provisioner, l.Root, l.kubeconfig), 0o600))
	// While the server runs.
	if out := l.adopt("--dry-run", "--config", file); !strings.Contains(out, name+": to be adopted: claim "+l.name+"/data, 1048576 bytes, export 4\n") {
		t.Errorf("the dry run says:\n%s", out)
	}
	if entries := l.list(filepath.Join(l.Root, ".berth")); len(entries) > 0 {
		t.Errorf("the dry run has made %v", entries)
	}
	l.server.Kill()
	out := l.adopt("--", "-provisioner="+l.options.Provisioner, "-kubeconfig="+l.kubeconfig, "-export-root="+l.Root)
	if !strings.Contains(out, name+": adopted: ") {
		t.Errorf("it says:\n%s", out)
	}
	// Its account closes it: the drop-in asks the cluster for nothing more.
	var account struct{ From string }
	text, err := os.ReadFile(filepath.Join(l.Root, ".berth", "adopted.json"))
	if err := errors.Join(err, json.Unmarshal(text, &account)); err != nil || account.From != "nfs-provisioner" {
		t.Errorf("the account is %s, %v", text, err)
	}
	l.startDropIn()
	if attr, err := c.StatHandle(t.Context(), had.handle); err != nil || attr.FSID != had.attr.FSID {
		t.Errorf("the handle that a client had gives %v, %v; it was %v", attr, err, had.attr)
	}
	l.deleteClaim("data")
	l.volumeGone(name)
	l.untilPurged(name)
}

// adopt runs "berth adopt nfs-provisioner" and gives what it prints.
func (l *legacy) adopt(args ...string) string {
	l.t.Helper()
	p, err := harness.Start(filepath.Join(l.t.TempDir(), "out"), l.options.Binary, append([]string{"adopt", "nfs-provisioner"}, args...)...)
	l.must(err)
	if err := p.Wait(l.t.Context()); err != nil {
		l.t.Errorf("berth adopt nfs-provisioner %s: %v", strings.Join(args, " "), err)
	}
	return p.Log()
}
