package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	kubetest "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/volume"
)

const (
	clusterUID  = "cluster-1"
	claimUID    = "9d9d5d0f"
	volumeName  = "pvc-" + claimUID
	provisioned = "example.com/nfs" // the provisioner's name
)

var errAPI = errors.New("the API server is away")

// fakeVolumes is a pool's Manager that remembers what it was asked for.
type fakeVolumes struct {
	name string
	fail error // of each call but Get
	away error // of Get
	// made changes what Create returns, if it is not nil.
	made func(*volume.Volume)
	room int64
	// during is called in Create, if it is not nil.
	during func(ctx context.Context)

	mu        sync.Mutex
	begun     map[string]volume.Volume // by name
	adopted   map[string]volume.Volume // by name
	created   []volume.Spec
	canceled  []string
	deleted   []string // name, space, cluster
	shot      []volume.SnapshotSpec
	unshot    []string // name, space, cluster
	published []string
	grown     []string // name, cluster, bytes
	limit     volume.Limit
	scavenged []string      // cluster, space, grace
	wanted    volume.Wanted // of Scavenge
	asks      volume.Wanted // of AskWanted
}

// count gives how many times the pool was asked for what list holds.
func (f *fakeVolumes) count(list *[]string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(*list)
}

func (f *fakeVolumes) Pool() string { return f.name }

func (f *fakeVolumes) Create(ctx context.Context, s volume.Spec) (volume.Volume, error) {
	if f.during != nil {
		f.during(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, s)
	if f.fail != nil {
		return volume.Volume{}, f.fail
	}
	s.Export.ID, s.Export.Path = 7, "/exports/"+s.Name.String()
	v := volume.New(s, time.Now())
	if f.made != nil {
		f.made(&v)
	}
	return v, nil
}

func (f *fakeVolumes) Cancel(_ context.Context, s volume.Spec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.canceled = append(f.canceled, s.Name.String()+" "+s.Claim.UID)
	return f.fail
}

func (f *fakeVolumes) Delete(_ context.Context, n volume.Name, cluster string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = append(f.deleted, n.String()+" "+cluster)
	return f.fail
}

func (f *fakeVolumes) Snapshot(_ context.Context, s volume.SnapshotSpec) (volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shot = append(f.shot, s)
	if f.fail != nil {
		return volume.Volume{}, f.fail
	}
	v := volume.NewSnapshot(s, volume.Volume{Name: s.Of, Size: 1 << 30, Claim: volume.Claim{Namespace: s.Namespace, Name: "data"}}, time.Unix(1000, 0))
	v.State = volume.StateSnapshot
	return v, nil
}

func (f *fakeVolumes) DeleteSnapshot(_ context.Context, n volume.Name, cluster string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unshot = append(f.unshot, n.String()+" "+cluster)
	return f.fail
}

func (f *fakeVolumes) Grow(_ context.Context, n volume.Name, cluster string, bytes int64) (volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grown = append(f.grown, fmt.Sprint(n, " ", cluster, " ", bytes))
	return volume.Volume{Name: n, Size: bytes, Limit: f.limit}, f.fail
}

func (f *fakeVolumes) MarkPublished(_ context.Context, n volume.Name) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = append(f.published, n.String())
	return f.fail
}

func (f *fakeVolumes) Get(_ context.Context, n volume.Name) (volume.Volume, error) {
	if f.away != nil {
		return volume.Volume{}, f.away
	}
	if v, ok := f.begun[n.String()]; ok {
		return v, nil
	}
	return volume.Volume{}, volume.ErrNotFound
}

func (f *fakeVolumes) Adopted(n volume.Name) (volume.Volume, bool) {
	v, ok := f.adopted[n.String()]
	return v, ok
}

func (f *fakeVolumes) Room(context.Context) (volume.Room, error) {
	return volume.Room{Free: f.room, Unpromised: f.room}, nil
}

func (f *fakeVolumes) AskWanted(wanted volume.Wanted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = wanted
}

func (f *fakeVolumes) Scavenge(_ context.Context, cluster string, grace time.Duration, wanted volume.Wanted) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scavenged = append(f.scavenged, cluster+" "+grace.String())
	f.wanted = wanted
	return 0, f.fail
}

// newPool makes a pool whose volumes are fake; its instance is "<name>-instance".
func newPool(name string) (*Pool, *fakeVolumes) {
	volumes := &fakeVolumes{name: name}
	return &Pool{
		Volumes: volumes, Instance: name + "-instance", Squash: export.SquashNone,
		Owner: volume.Owner{UID: 1, GID: 2, Mode: 0o2770},
	}, volumes
}

func newClaim() *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "data", UID: claimUID},
		Spec: v1.PersistentVolumeClaimSpec{
			AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteMany, v1.ReadOnlyMany},
			Resources:   v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func newClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "berth"}, Provisioner: provisioned,
		MountOptions: []string{"vers=4.1", "hard"},
	}
}

func options(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) controller.ProvisionOptions {
	return controller.ProvisionOptions{StorageClass: class, PVName: volumeName, PVC: claim}
}

func newVolume(pool, instance, name string) *v1.PersistentVolume {
	return &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{
		Name: volumeName, Annotations: map[string]string{annInstance: instance, annVolume: pool + "/" + name},
	}}
}

// newClient is one whose user may do everything.
func newClient(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewSimpleClientset(objects...)
	deny(client)
	return client
}

// deny has the user do everything but what is named, as in "patch persistentvolumes".
func deny(client *fake.Clientset, denied ...string) {
	client.PrependReactor("create", "selfsubjectaccessreviews", func(action kubetest.Action) (bool, runtime.Object, error) {
		review := action.(kubetest.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		asked := review.Spec.ResourceAttributes
		review.Status.Allowed = !slices.Contains(denied, asked.Verb+" "+asked.Resource)
		return true, review, nil
	})
}

// untilWatched waits until somebody watches what is named: the fake client loses what
// happens between an informer's list and its watch.
func untilWatched(client *fake.Clientset, resource string) {
	eventually(func() bool {
		return slices.ContainsFunc(client.Actions(), func(a kubetest.Action) bool { return a.Matches("watch", resource) })
	})
}

var allRights = rights{cluster: true, lease: true, neighbours: true, finalizers: true, growth: true, snapshots: true}

// anybodys is the ownership of an instance that serves every claim.
func anybodys(*v1.PersistentVolumeClaim) bool { return true }

// failing makes each call of that verb and resource fail, as without an API server.
func failing(client *fake.Clientset, verb, resource string) {
	client.PrependReactor(verb, resource, func(kubetest.Action) (bool, runtime.Object, error) { return true, nil, errAPI })
}

// newProvisioner makes a provisioner whose server's address is "nfs".
func newProvisioner(client *fake.Clientset, pools ...*Pool) *provisioner {
	return &provisioner{
		name: provisioned, objects: newObjects(), client: client, pools: pools, volumes: listerOf(), cluster: clusterUID, taker: newLoneTaker(client, pools[0].Instance),
		advisor: newTestAdvisor(time.Now),
		address: newAddressResolver(client, "nfs", 2049, false, true), log: quiet(), observe: func(string, time.Duration, error) {},
	}
}

// newTestAdvisor makes an advisor whose events stay in its recorder.
func newTestAdvisor(now func() time.Time) *advisor {
	return &advisor{events: record.NewFakeRecorder(10), now: now, said: map[string]time.Time{}}
}

// newLoneTaker makes the taker of an instance that knows no other one.
func newLoneTaker(client kubernetes.Interface, id string) *taker {
	i := newInstances(provisioned, func() instance { return instance{id: id} })
	classes := informers.NewSharedInformerFactory(client, 0).Storage().V1().StorageClasses()
	return newTaker(client, i, classes.Lister(), quiet())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func parseName(t testing.TB, s string) volume.Name {
	t.Helper()
	n, err := volume.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func claimOf(claim *v1.PersistentVolumeClaim) volume.Claim {
	return volume.Claim{Namespace: claim.Namespace, Name: claim.Name, UID: string(claim.UID)}
}

func withUID(uid string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.UID = types.UID(uid) }
}

func boundTo(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
}

func beingDeleted(c *v1.PersistentVolumeClaim) {
	c.DeletionTimestamp, c.Finalizers = new(metav1.Now()), []string{"kubernetes.io/pvc-protection"}
}

// docsTable gives the cells of the rows of a table on a page of the documents,
// without their quotes.
func docsTable(t *testing.T, name, heading string) (rows [][]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), heading+"\n")
	if !found {
		t.Fatalf("docs/%s has no table %s", name, heading)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "|--") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i, cell := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cell), "`")
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("the table %s has %d rows", heading, len(rows))
	}
	return rows
}
