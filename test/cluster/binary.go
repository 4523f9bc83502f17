package cluster

import (
	"context"
	"io"

	"github.com/berth-storage/berth/test/cache"
)

// Binary returns the path of the control plane's binary, which is etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler or kubectl as its
// first argument says. It is kept in $BERTH_CACHE, or else in the folder
// "berth" of the user's cache folder. If it is not there it is built, which
// takes minutes and is told on log. Several callers at once build it once.
func Binary(ctx context.Context, log io.Writer) (path string, err error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	key, err := sourceKey(source)
	if err != nil {
		return "", err
	}
	return cache.File(ctx, "controlplane-"+key, "controlplane", "the control plane", log, func(target string) error {
		return build(ctx, source, target, log)
	})
}
