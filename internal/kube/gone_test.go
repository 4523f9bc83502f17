package kube

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestAPersistentVolumeThatIsGoneIsDeleted(t *testing.T) {
	client := fake.NewClientset()
	volumes := tolerant{client}.CoreV1().PersistentVolumes()
	if err := volumes.Delete(t.Context(), "pvc-1", metav1.DeleteOptions{}); err != nil {
		t.Errorf("got error %v", err)
	}
	away := errors.New("the API server is away")
	client.PrependReactor("delete", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, away })
	if err := volumes.Delete(t.Context(), "pvc-1", metav1.DeleteOptions{}); !errors.Is(err, away) {
		t.Errorf("got error %v, want %v", err, away)
	}
}
