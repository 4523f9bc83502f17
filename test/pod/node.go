package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const every = 100 * time.Millisecond

// Options of a Node.
type Options struct {
	Client     kubernetes.Interface // with all rights
	APIServer  string               // its URL on this host
	Name       string               // of the node
	Labels     map[string]string    // more than its name
	Rootfs     string               // files of the one image that the node has, whatever a pod's image is called
	Entrypoint []string
	Env        []string
	Folder     string // for what the node makes
	Host       string // folder that stands for the root of the node's file system in hostPaths
	// Shares are folders that stand for what NFS volumes mount, by server:path.
	Shares map[string]string
	Hosts  map[string]string // addresses that the cluster's DNS knows, by name
}

// Node runs the pods that are bound to it.
type Node struct {
	o    Options
	stop context.CancelFunc
	all  sync.WaitGroup

	mu     sync.Mutex
	pods   map[types.UID]*Pod
	failed error
}

// Start makes a Node object that is ready, and runs the pods that are bound to it until Stop.
func Start(ctx context.Context, o Options) (*Node, error) {
	server, err := url.Parse(o.APIServer)
	if err != nil {
		return nil, err
	}
	o.APIServer = server.Host
	room := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("8"), v1.ResourceMemory: resource.MustParse("16Gi"),
		v1.ResourcePods: resource.MustParse("100"), v1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
	labels := map[string]string{v1.LabelHostname: o.Name, v1.LabelOSStable: "linux"}
	maps.Copy(labels, o.Labels)
	if _, err := o.Client.CoreV1().Nodes().Create(ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	// A patch, because controllers change the new Node at the same time.
	status, err := json.Marshal(map[string]any{"status": v1.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "Test", LastHeartbeatTime: metav1.Now()}},
	}})
	if err != nil {
		return nil, err
	}
	if _, err := o.Client.CoreV1().Nodes().Patch(ctx, o.Name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		return nil, err
	}
	n := &Node{o: o, pods: map[types.UID]*Pod{}}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.all.Go(func() { n.run(running) })
	return n, nil
}

// Stop kills all pods, removes the Node, and says what went wrong meanwhile.
func (n *Node) Stop(ctx context.Context) error {
	// The Node goes first, and last the pods that were sent to it meanwhile, instead of those that ended: nobody else
	// ends these, but for Kubernetes' collector of pods without a node, which takes a minute or two.
	err := n.o.Client.CoreV1().Nodes().Delete(ctx, n.o.Name, metav1.DeleteOptions{})
	n.stop()
	n.all.Wait()
	return errors.Join(n.failed, err, n.clear(ctx))
}

// clear takes all pods of this node from the API server.
func (n *Node) clear(ctx context.Context) error {
	list, err := n.list(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range list.Items {
		failed = append(failed, n.remove(ctx, &p))
	}
	return errors.Join(failed...)
}

// list lists the pods of this node.
func (n *Node) list(ctx context.Context) (*v1.PodList, error) {
	return n.o.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", n.o.Name).String(),
	})
}

func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed = errors.Join(n.failed, err)
}

// run looks for new pods until ctx ends.
func (n *Node) run(ctx context.Context) {
	for ctx.Err() == nil {
		if list, err := n.list(ctx); err == nil {
			for _, p := range list.Items {
				n.see(ctx, &p)
			}
		}
		wait(ctx, every)
	}
}

// see begins to run a pod that is new.
func (n *Node) see(ctx context.Context, p *v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods[p.UID] != nil {
		return
	}
	net := newNetwork()
	running := &Pod{
		Namespace: p.Namespace, Name: p.Name, IP: net.pod, net: net,
		LogFile: filepath.Join(n.o.Folder, string(p.UID)+".log"), folder: filepath.Join(n.o.Folder, string(p.UID)),
	}
	n.pods[p.UID] = running
	n.all.Go(func() {
		if err := n.runPod(ctx, p.DeepCopy(), running); err != nil && ctx.Err() == nil {
			n.fail(fmt.Errorf("pod %s: %w", p.Name, err))
		}
	})
}

// Pod gives the pod of that name; nil if there is none.
func (n *Node) Pod(namespace, name string) *Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		if p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	return nil
}

// runPod runs a pod until it is deleted, or its container ends for good.
func (n *Node) runPod(ctx context.Context, p *v1.Pod, running *Pod) error {
	if len(p.Spec.Containers) != 1 {
		return errors.New("a pod has one container here")
	}
	if err := os.MkdirAll(running.folder, 0o755); err != nil {
		return err
	}
	p.Status.PodIP = running.IP
	for ctx.Err() == nil && !n.deleted(ctx, p) {
		c, err := n.startPod(ctx, p, running)
		running.set(c, err)
		if err != nil { // as the kubelet, try again: what is missing may come
			wait(ctx, time.Second)
			continue
		}
		ending, err := n.watch(ctx, p, running, c)
		if err != nil {
			return err
		}
		if ending {
			c.stop(time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second)
			break
		}
		c.kill()
		running.restarted()
		wait(ctx, time.Second) // a kubelet waits longer, and longer each time
	}
	return n.remove(ctx, p)
}

// startPod starts the pod's container.
func (n *Node) startPod(ctx context.Context, p *v1.Pod, running *Pod) (*container, error) {
	c := p.Spec.Containers[0]
	mounts, err := n.volumes(ctx, p, c, running.folder)
	if err != nil {
		return nil, err
	}
	env, err := environment(p, c, n.o.Env)
	if err != nil {
		return nil, err
	}
	if err := writeBundle(running.folder, n.o.Host, n.o.Hosts, p, c, n.o.Entrypoint, env, mounts); err != nil {
		return nil, err
	}
	return startContainer(ctx, n.o.Rootfs, running.folder, "berth-"+string(p.UID), running.LogFile, n.o.APIServer, running.net)
}

// watch probes a container and tells the API server of it. It returns when the
// container has ended, or has to: ending says that the pod does, too.
func (n *Node) watch(ctx context.Context, p *v1.Pod, running *Pod, c *container) (ending bool, err error) {
	spec := p.Spec.Containers[0]
	probes := make([]*prober, 3)
	for i, probe := range []*v1.Probe{spec.StartupProbe, spec.LivenessProbe, spec.ReadinessProbe} {
		if probes[i], err = newProber(probe, spec, running.IP); err != nil {
			return true, err
		}
	}
	startup, liveness, readiness := probes[0], probes[1], probes[2]
	for told, first := false, true; ctx.Err() == nil && !n.deleted(ctx, p); {
		ready := false
		if startup.tick(ctx); startup.passed {
			startup.probe = nil // once is enough
			liveness.tick(ctx)
			readiness.tick(ctx)
			ready = readiness.passed
		}
		if (first || ready != told) && n.tell(ctx, p, running, ready) == nil {
			told, first = ready, false
		}
		if c.ended() || startup.failed || liveness.failed {
			return false, nil
		}
		wait(ctx, every)
	}
	return true, nil
}

// tell writes the pod's status.
func (n *Node) tell(ctx context.Context, p *v1.Pod, running *Pod, ready bool) error {
	status := v1.ConditionFalse
	if ready {
		status = v1.ConditionTrue
	}
	for {
		now, err := n.o.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		at := metav1.Now()
		now.Status.Phase, now.Status.PodIP, now.Status.PodIPs = v1.PodRunning, running.IP, []v1.PodIP{{IP: running.IP}}
		now.Status.StartTime = &at
		now.Status.Conditions = []v1.PodCondition{
			{Type: v1.PodScheduled, Status: v1.ConditionTrue}, {Type: v1.PodInitialized, Status: v1.ConditionTrue},
			{Type: v1.ContainersReady, Status: status, LastTransitionTime: at}, {Type: v1.PodReady, Status: status, LastTransitionTime: at},
		}
		now.Status.ContainerStatuses = []v1.ContainerStatus{{
			Name: p.Spec.Containers[0].Name, Ready: ready, RestartCount: int32(running.Restarts()),
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: at}},
		}}
		_, err = n.o.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, now, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// deleted says whether the pod is to end. While the API server is away, pods go on.
func (n *Node) deleted(ctx context.Context, p *v1.Pod) bool {
	now, err := n.o.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	return now.UID != p.UID || now.DeletionTimestamp != nil
}

// remove takes a pod that has ended from the API server.
func (n *Node) remove(ctx context.Context, p *v1.Pod) error {
	now := int64(0)
	err := n.o.Client.CoreV1().Pods(p.Namespace).Delete(context.WithoutCancel(ctx), p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
