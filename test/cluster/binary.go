package cluster

import (
	"context"
	"io"

	"github.com/berth-storage/berth/test/cache"
)

// program is a command of the module test/controlplane.
type program struct {
	name   string // of the binary
	folder string // of its main package, below the module's
	title  string
	takes  string // how long its first build does
}

var (
	controlPlane = program{"controlplane", ".", "control plane", "5-15 minutes"}
	kubelet      = program{"kubelet", "kubelet", "kubelet", "1-15 minutes"} // most packages are also in the other
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

func (p program) binary(ctx context.Context, log io.Writer) (path string, err error) {
	source, err := sourceDir()
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
