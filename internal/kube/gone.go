package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// tolerant is a client to which a PersistentVolume that is gone is as good as deleted.
// The library deletes one again when its cache is behind, and would log that as an error.
type tolerant struct{ kubernetes.Interface }

func (t tolerant) CoreV1() corev1.CoreV1Interface { return tolerantCore{t.Interface.CoreV1()} }

type tolerantCore struct{ corev1.CoreV1Interface }

func (t tolerantCore) PersistentVolumes() corev1.PersistentVolumeInterface {
	return tolerantVolumes{t.CoreV1Interface.PersistentVolumes()}
}

type tolerantVolumes struct {
	corev1.PersistentVolumeInterface
}

func (t tolerantVolumes) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	if err := t.PersistentVolumeInterface.Delete(ctx, name, o); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}
