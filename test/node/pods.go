package node

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MountPath is where the pods of NewPod have their volume.
const MountPath = "/mnt"

// NewPod is a pod that runs a shell script once, with a claim's volume at MountPath.
func NewPod(namespace, name, claim, script string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1.PodSpec{
			RestartPolicy:                 v1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64(1)), // the script does not hear of its end
			AutomountServiceAccountToken:  new(false),
			Containers: []v1.Container{{
				Name: "main", Image: Image, ImagePullPolicy: v1.PullIfNotPresent,
				Command:      []string{"/bin/sh", "-c", script},
				VolumeMounts: []v1.VolumeMount{{Name: "volume", MountPath: MountPath}},
			}},
			Volumes: []v1.Volume{{Name: "volume", VolumeSource: v1.VolumeSource{
				PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}
}

// Outcome is how a pod's only container ended.
type Outcome struct {
	ExitCode int
	Log      string // what it printed
}

// RunPod makes a pod and waits until its container has ended. The pod stays.
func (n *Node) RunPod(ctx context.Context, pod *v1.Pod) (Outcome, error) {
	if err := n.CreatePod(ctx, pod); err != nil {
		return Outcome{}, err
	}
	return n.AwaitPod(ctx, pod)
}

// CreatePod makes a pod.
func (n *Node) CreatePod(ctx context.Context, pod *v1.Pod) error {
	_, err := n.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// AwaitPod waits until the container of a pod has ended.
func (n *Node) AwaitPod(ctx context.Context, pod *v1.Pod) (Outcome, error) {
	state, err := n.awaitState(ctx, pod, "has ended", func(s v1.ContainerState) bool { return s.Terminated != nil })
	if err != nil {
		return Outcome{}, err
	}
	log, err := n.PodLog(ctx, pod)
	return Outcome{ExitCode: int(state.Terminated.ExitCode), Log: log}, err
}

// AwaitRunning waits until the container of a pod has started.
func (n *Node) AwaitRunning(ctx context.Context, pod *v1.Pod) error {
	_, err := n.awaitState(ctx, pod, "runs", func(s v1.ContainerState) bool { return s.Running != nil || s.Terminated != nil })
	return err
}

// awaitState waits for a state of the pod's container. What keeps the pod from it is
// in its events.
func (n *Node) awaitState(ctx context.Context, pod *v1.Pod, what string, reached func(v1.ContainerState) bool) (state v1.ContainerState, err error) {
	err = until(ctx, fmt.Sprintf("pod %s %s", pod.Name, what), func() bool {
		now, err := n.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil || len(now.Status.ContainerStatuses) == 0 {
			return false
		}
		state = now.Status.ContainerStatuses[0].State
		return reached(state)
	})
	if err != nil {
		return state, fmt.Errorf("%w\n%s\n%s", err, n.eventsOf(pod), n.Logs())
	}
	return state, nil
}

// eventsOf lists the events of a pod.
func (n *Node) eventsOf(pod *v1.Pod) string {
	events, err := n.Client.CoreV1().Events(pod.Namespace).List(context.Background(),
		metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name})
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for _, e := range events.Items {
		fmt.Fprintf(&all, "%s: %s\n", e.Reason, e.Message)
	}
	return all.String()
}

// PodLog is what the container of a pod has printed.
func (n *Node) PodLog(ctx context.Context, pod *v1.Pod) (string, error) {
	log, err := n.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &v1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the log of pod %s: %w", pod.Name, err)
	}
	return string(log), nil
}

// DeletePod asks for the end of a pod, and does not wait for it; see AwaitGone.
func (n *Node) DeletePod(ctx context.Context, pod *v1.Pod) error {
	return n.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
}

// AwaitGone waits until the node has let a pod that was deleted go, its volumes too.
func (n *Node) AwaitGone(ctx context.Context, pod *v1.Pod) error {
	err := until(ctx, fmt.Sprintf("pod %s is gone", pod.Name), func() bool {
		_, err := n.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, n.eventsOf(pod), n.Logs())
	}
	return nil
}
