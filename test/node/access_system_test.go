//go:build system

package node

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// as has the pod's processes run as a user, and with the groups that fsGroup adds.
func as(pod *v1.Pod, user int64, fsGroup *int64) *v1.Pod {
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: fsGroup}
	return pod
}

// A volume with a group lets in the pods that use it, whoever they run as: the kubelet
// gives them the group. Their files are the group's.
func TestPodsGetTheVolumesGroup(t *testing.T) {
	s := newSite(t, "group", func(c *storagev1.StorageClass) {
		c.Parameters = map[string]string{"gid": "5000", "mode": "2770"}
	})
	folder := s.claim("data")
	script := "id; echo written >/mnt/$HOSTNAME"
	pods := []*v1.Pod{as(s.pod("plain", "data", script), 1000, nil), as(s.pod("with-fsgroup", "data", script), 1000, new(int64(6000)))}
	s.create(pods...)
	for _, pod := range pods {
		s.ends(pod, 0)
		info, err := os.Stat(filepath.Join(folder, pod.Name))
		s.must(err)
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 1000 || stat.Gid != 5000 {
			t.Errorf("the file of %s has owner %d and group %d", pod.Name, stat.Uid, stat.Gid)
		}
	}
	// What fsGroup asks for is not done to a volume that others use too.
	info, err := os.Stat(folder)
	s.must(err)
	if stat := info.Sys().(*syscall.Stat_t); stat.Gid != 5000 || stat.Mode&0o7777 != 0o2770 {
		t.Errorf("the directory has group %d and mode %o", stat.Gid, stat.Mode&0o7777)
	}
	s.clear("data")
}

// Who is neither the owner nor in the group is kept out.
func TestPodsWithoutRightsAreRefused(t *testing.T) {
	s := newSite(t, "refused", func(c *storagev1.StorageClass) {
		c.Parameters = map[string]string{"uid": "2000", "mode": "0750"}
	})
	s.claim("data")
	stranger := as(s.pod("stranger", "data", "echo x >/mnt/file"), 1000, nil)
	owner := as(s.pod("owner", "data", "echo x >/mnt/file"), 2000, nil)
	s.create(stranger, owner)
	if log := s.ends(stranger, 1); !strings.Contains(log, "Permission denied") {
		t.Errorf("it printed %q", log)
	}
	s.ends(owner, 0)
	s.clear("data")
}

func TestReadOnlyMounts(t *testing.T) {
	s := newSite(t, "read-only")
	s.claim("data")
	writer := s.pod("writer", "data", "echo hello >/mnt/file")
	s.create(writer)
	s.ends(writer, 0)
	script := "cat /mnt/file && echo x >/mnt/file"
	ofMount := s.pod("of-mount", "data", script)
	ofMount.Spec.Containers[0].VolumeMounts[0].ReadOnly = true
	ofClaim := s.pod("of-claim", "data", script)
	ofClaim.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	s.create(ofMount, ofClaim)
	for _, pod := range []*v1.Pod{ofMount, ofClaim} {
		if log := s.ends(pod, 1); !strings.Contains(log, "hello") || !strings.Contains(log, "Read-only file system") {
			t.Errorf("%s printed %q", pod.Name, log)
		}
	}
	s.clear("data")
}
