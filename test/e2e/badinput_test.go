//go:build system

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// untilEvent waits for a warning about an object that has all the words.
func (s *site) untilEvent(namespace, object, reason string, words ...string) {
	s.t.Helper()
	var last []string
	deadline := time.Now().Add(patience)
	for {
		texts, err := s.warnings(s.t.Context(), namespace, object, reason)
		s.must(err)
		if slices.ContainsFunc(texts, func(text string) bool { return containsAll(text, words) }) {
			return
		}
		last = texts
		if time.Now().After(deadline) {
			s.t.Errorf("%s: no event %s with %q; there are %q", object, reason, words, last)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
}

// badClaim is a claim that cannot be fulfilled, and what the event has to say.
type badClaim struct {
	parameters map[string]string // of its class
	edit       func(*v1.PersistentVolumeClaimSpec)
	words      []string
}

func request(size string) func(*v1.PersistentVolumeClaimSpec) {
	return func(c *v1.PersistentVolumeClaimSpec) {
		c.Resources.Requests[v1.ResourceStorage] = resource.MustParse(size)
	}
}

// badClaims are tried all at once. Their keys are the claims' names.
func badClaims() map[string]badClaim {
	snapshots := "snapshot.storage.k8s.io"
	return map[string]badClaim{
		"unknown-parameter": {
			parameters: map[string]string{"rootSquish": "true"},
			words:      []string{"rootSquish", "did you mean", "rootSquash"},
		},
		"unlike-any-parameter": {
			parameters: map[string]string{"recordsize": "128k"},
			words:      []string{"unknown StorageClass parameter", "recordsize"},
		},
		"bad-mode":   {parameters: map[string]string{"mode": "0999"}, words: []string{"mode", "0999", "octal"}},
		"wide-mode":  {parameters: map[string]string{"mode": "10777"}, words: []string{"mode", "10777", "octal"}},
		"bad-uid":    {parameters: map[string]string{"uid": "nobody"}, words: []string{"uid", "nobody", "number"}},
		"bad-squash": {parameters: map[string]string{"rootSquash": "perhaps"}, words: []string{"rootSquash", "perhaps", "true or false"}},
		"bad-policy": {parameters: map[string]string{"onDelete": "keep"}, words: []string{"onDelete", "keep", "delete, retain or archive"}},
		"no-share":   {parameters: map[string]string{"pathPattern": "x"}, words: []string{"pathPattern", "not on a share"}},
		"bad-pool":   {parameters: map[string]string{"pool": "locla"}, words: []string{"locla", "did you mean", "local"}},
		"selector": {
			edit: func(c *v1.PersistentVolumeClaimSpec) {
				c.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "fast"}}
			},
			words: []string{"selector"},
		},
		"block": {
			edit:  func(c *v1.PersistentVolumeClaimSpec) { c.VolumeMode = new(v1.PersistentVolumeBlock) },
			words: []string{"volumeMode Block", "Filesystem"},
		},
		"attributes-class": {
			edit:  func(c *v1.PersistentVolumeClaimSpec) { c.VolumeAttributesClassName = new("gold") },
			words: []string{"volumeAttributesClassName", "gold"},
		},
		"clone": {
			edit: func(c *v1.PersistentVolumeClaimSpec) {
				c.DataSource = &v1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "original"}
			},
			words: []string{"dataSource", "original", "does not exist"},
		},
		"restore": {
			edit: func(c *v1.PersistentVolumeClaimSpec) {
				c.DataSource = &v1.TypedLocalObjectReference{APIGroup: &snapshots, Kind: "VolumeSnapshot", Name: "yesterday"}
			},
			words: []string{"VolumeSnapshot", "yesterday", "does not exist"},
		},
		"restore-ref": {
			edit: func(c *v1.PersistentVolumeClaimSpec) {
				c.DataSourceRef = &v1.TypedObjectReference{APIGroup: &snapshots, Kind: "VolumeSnapshot", Name: "monday"}
			},
			words: []string{"VolumeSnapshot", "monday", "does not exist"},
		},
		"populator-ref": {
			edit: func(c *v1.PersistentVolumeClaimSpec) {
				c.DataSourceRef = &v1.TypedObjectReference{APIGroup: new("example.com"), Kind: "Hello", Name: "world"}
			},
			words: []string{"Hello", "world", "empty volume"},
		},
		"too-large": {edit: request("1Ei"), words: []string{"not enough space", "1152921504606846976", "available"}},
		// apimachinery cuts what has a binary suffix down to an int64, but not this:
		"over-int64":        {edit: request("10E"), words: []string{"10E", "2^63-1"}},
		"over-int64-binary": {edit: request("9Ei"), words: []string{"not enough space", "9223372036854775807"}},
	}
}

// Whatever cannot be fulfilled gives an event that says why, and nothing else.
func TestBadInput(t *testing.T) {
	s := newSite(t, "bad")
	for name, bad := range badClaims() {
		s.class(s.name+"-"+name, func(c *storagev1.StorageClass) { c.Parameters = bad.parameters })
	}
	s.start()
	for name, bad := range badClaims() {
		s.claim(name, func(c *v1.PersistentVolumeClaim) {
			c.Spec.StorageClassName = new(s.name + "-" + name)
			if bad.edit != nil {
				bad.edit(&c.Spec)
			}
		})
	}
	for name, bad := range badClaims() {
		s.untilEvent(s.name, name, "ProvisioningFailed", bad.words...)
	}
	if got := s.watch.Bound(); got != 0 {
		t.Errorf("%d of the claims are Bound", got)
	}
	// They do not keep Berth from its work.
	pv := s.bind("good")
	c := s.mount()
	if have, exports := s.contents(), s.exports(c); len(have.volumes) != 1 || len(have.records) != 1 || len(have.discarded)+len(have.trash) > 0 || len(exports) != 1 {
		t.Errorf("more is there than the volume %s: %v, exports %v", pv.Name, have, exports)
	}
	for _, pv := range s.watch.Volumes() {
		if strings.HasPrefix(pv.Spec.StorageClassName, s.name+"-") {
			t.Errorf("PersistentVolume %s of class %s exists", pv.Name, pv.Spec.StorageClassName)
		}
	}
}
