package cluster

import (
	"context"
	"io"

	"github.com/berth-storage/berth/test/cache"
)

// program is a command that is built in one of the modules below the folder test.
type program struct {
	name   string // of the binary
	module string // its folder
	pkg    string // its main package: a folder of the module, or the path of one of another module
	title  string
	takes  string // how long its first build does, and how much of Go's caches
}

var (
	controlPlane       = program{"controlplane", "controlplane", ".", "Kubernetes " + Version + " control plane", "5-15 minutes and about 5 GB of Go's caches"}
	kubelet            = program{"kubelet", "controlplane", "./kubelet", "Kubernetes " + Version + " kubelet", "1-15 minutes and about 5 GB of Go's caches"} // most packages are also in the other
	snapshotController = program{"snapshot-controller", "snapshotcontroller", "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller", "snapshot-controller", "2-10 minutes and about 1 GB of Go's caches"}
)

// Binary returns the path of the control plane's binary, which is etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler or kubectl as its
// first argument says. It is kept in $BERTH_CACHE, or else in the folder
// "berth" of the user's cache folder. If it is not there it is built, which
// takes minutes and is told on log. Several callers at once build it once.
func Binary(ctx context.Context, log io.Writer) (path string, err error) {
	return controlPlane.binary(ctx, log)
}

// Kubelet returns the path of the kubelet's binary, which is kept as Binary's.
func Kubelet(ctx context.Context, log io.Writer) (path string, err error) {
	return kubelet.binary(ctx, log)
}

// SnapshotController returns the path of the snapshot-controller's binary, which is kept
// as Binary's.
func SnapshotController(ctx context.Context, log io.Writer) (path string, err error) {
	return snapshotController.binary(ctx, log)
}

func (p program) binary(ctx context.Context, log io.Writer) (path string, err error) {
	source, err := p.sourceDir()
	if err != nil {
		return "", err
	}
	key, err := p.sourceKey(source)
	if err != nil {
		return "", err
	}
	return cache.File(ctx, p.name+"-"+key, p.name, "the "+p.title, log, func(target string) error {
		return p.build(ctx, source, target, log)
	})
}
