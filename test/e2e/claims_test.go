//go:build system

package e2e

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-storage/berth/test/harness"
)

// claim makes a claim of 1 MiB.
func (s *site) claim(name string, edits ...func(*v1.PersistentVolumeClaim)) {
	s.t.Helper()
	claim := harness.NewClaim(s.name, name, s.name)
	for _, edit := range edits {
		edit(claim)
	}
	_, err := s.client.CoreV1().PersistentVolumeClaims(s.name).Create(s.t.Context(), claim, metav1.CreateOptions{})
	s.must(err)
}

// bound waits until the claim is Bound and gives its PersistentVolume. It asks the
// API server, because a watch takes its time to come back after an outage.
func (s *site) bound(name string) *v1.PersistentVolume {
	s.t.Helper()
	var volume string
	s.until("claim "+name+" is Bound", func() bool {
		claim, err := s.client.CoreV1().PersistentVolumeClaims(s.name).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		volume = claim.Spec.VolumeName
		return claim.Status.Phase == v1.ClaimBound
	})
	pv, err := s.client.CoreV1().PersistentVolumes().Get(s.t.Context(), volume, metav1.GetOptions{})
	s.must(err)
	return pv
}

// bind makes a claim and gives its PersistentVolume.
func (s *site) bind(name string) *v1.PersistentVolume {
	s.t.Helper()
	s.claim(name)
	return s.bound(name)
}

// comeAndGo is a volume's whole life.
func (s *site) comeAndGo(name string) {
	s.t.Helper()
	pv := s.bind(name)
	s.deleteClaim(name)
	s.volumeGone(pv.Name)
	s.untilPurged(pv.Name)
}

// bindMany makes n claims and waits until all claims of the site are Bound.
func (s *site) bindMany(n int) {
	s.t.Helper()
	s.must(harness.CreateClaims(s.t.Context(), s.client, s.name, "claim", s.name, n))
	s.untilCount("all claims are Bound", n, s.watch.Bound)
}

func (s *site) deleteClaim(name string) {
	s.t.Helper()
	s.must(s.client.CoreV1().PersistentVolumeClaims(s.name).Delete(s.t.Context(), name, metav1.DeleteOptions{}))
}

func (s *site) deleteAllClaims() {
	s.t.Helper()
	claims := s.client.CoreV1().PersistentVolumeClaims(s.name)
	s.must(claims.DeleteCollection(s.t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// countVolumes counts the PersistentVolumes of this site's class, as the watch has them.
func (s *site) countVolumes() int {
	return len(slices.DeleteFunc(s.watch.Volumes(), func(pv *v1.PersistentVolume) bool { return pv.Spec.StorageClassName != s.name }))
}

// listVolumes are the PersistentVolumes of this site's class by name, as the API
// server has them.
func (s *site) listVolumes() map[string]*v1.PersistentVolume {
	s.t.Helper()
	all, err := s.client.CoreV1().PersistentVolumes().List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	volumes := map[string]*v1.PersistentVolume{}
	for _, pv := range all.Items {
		if pv.Spec.StorageClassName == s.name {
			volumes[pv.Name] = &pv
		}
	}
	return volumes
}

// volumeGone waits until there is no such PersistentVolume.
func (s *site) volumeGone(name string) {
	s.t.Helper()
	s.until("PersistentVolume "+name+" is gone", func() bool {
		_, err := s.client.CoreV1().PersistentVolumes().Get(s.t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// warnings are the texts of the warnings about an object, by the reason that
// they give. PersistentVolumes have theirs in the namespace "default".
func (s *site) warnings(ctx context.Context, namespace, object, reason string) ([]string, error) {
	events, err := s.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, e := range events.Items {
		if e.InvolvedObject.Name == object && e.Type == v1.EventTypeWarning && e.Reason == reason {
			texts = append(texts, e.Message)
		}
	}
	return texts, nil
}
