package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

const shareName = "bench.example.com/share"

// measureShare measures how long it takes from a claim's deletion until its
// PersistentVolume is gone, if its volume, on a share, has very many files. Berth runs in
// the test VM, which has the share from its own kernel's server.
func (b *bench) measureShare(ctx context.Context) (err error) {
	if err := errors.Join(b.needBerth(ctx), b.needCluster(ctx)); err != nil {
		return err
	}
	guest, err := vm.Start(ctx, vm.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	if err := mountInGuest(ctx, guest); err != nil {
		return err
	}
	// In the place of nfs-subdir-external-provisioner.
	berth, err := b.startInGuest(ctx, guest, vm.Command{Args: []string{"nfs-subdir-external-provisioner"}, Env: []string{
		"PROVISIONER_NAME=" + shareName, "NFS_SERVER=" + guest.Address, "NFS_PATH=/srv/disk",
		"KUBECONFIG=" + guestKubeconfig, "ENABLE_LEADER_ELECTION=false",
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, berth.stop()) }()
	const name = "share"
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := harness.CreateClass(ctx, b.client, name, shareName, map[string]string{"archiveOnDelete": "false"}); err != nil {
		return err
	}
	if err := harness.CreateClaims(ctx, b.client, name, "claim", name, b.shareTurns); err != nil {
		return err
	}
	// All are filled before any is deleted: what is freed in the background disturbs enough.
	var volumes []*v1.PersistentVolume
	for i := range b.shareTurns {
		pv, err := b.fillClaim(ctx, guest, name, fmt.Sprint("claim-", i))
		if err != nil {
			return err
		}
		volumes = append(volumes, pv)
	}
	var took []float64
	for i, pv := range volumes {
		t, err := b.deleteClaim(ctx, name, fmt.Sprint("claim-", i), pv.Name)
		if err != nil {
			return err
		}
		took = append(took, milliseconds(t))
	}
	b.results.set("subdir_delete_pv_gone_ms_200k_files", median(took))
	b.say("  %d volumes of %d files on a share: their PersistentVolumes gone after a median of %.0f ms", len(took), b.shareFiles, median(took))
	return nil
}

// mountInGuest has the guest's server export a file system of its own, which is mounted
// where nfs-subdir-external-provisioner has its share.
func mountInGuest(ctx context.Context, guest *vm.Guest) error {
	if err := vm.MountNew(ctx, guest, vm.XFS, "/srv/disk", 4<<30); err != nil {
		return err
	}
	if err := vm.StartNFSD(ctx, guest); err != nil {
		return err
	}
	const script = `
exportfs -o rw,no_root_squash,no_subtree_check,fsid=1 127.0.0.1:/srv/disk
mkdir -p /persistentvolumes
mount -t nfs -o vers=4.2,softerr 127.0.0.1:/srv/disk /persistentvolumes`
	if _, err := guest.Run(ctx, "sh", "-ec", script); err != nil {
		return fmt.Errorf("mounting the share: %w", err)
	}
	return nil
}

// fillClaim waits for a claim's volume and puts files into it, on the server's side.
func (b *bench) fillClaim(ctx context.Context, guest *vm.Guest, namespace, name string) (*v1.PersistentVolume, error) {
	var volume string
	var failed error
	err := harness.Until(ctx, "claim "+name+" is bound", func() bool {
		claim, err := b.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		failed = err
		if err == nil {
			volume = claim.Spec.VolumeName
		}
		return err != nil || claim.Status.Phase == v1.ClaimBound
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	pv, err := b.client.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	// 500 files in each folder.
	const script = `cd "$1"; for i in $(seq "$(($2 / 500))"); do mkdir "$i"; cd "$i"; seq 500 | xargs touch; cd ..; done; sync -f .`
	if _, err := guest.Run(ctx, "sh", "-ec", script, "sh", pv.Spec.NFS.Path, fmt.Sprint(b.shareFiles)); err != nil {
		return nil, fmt.Errorf("filling a volume: %w", err)
	}
	return pv, nil
}

// deleteClaim deletes a claim and gives the time until its volume is gone.
func (b *bench) deleteClaim(ctx context.Context, namespace, name, volume string) (time.Duration, error) {
	remove := func() error {
		return b.client.CoreV1().PersistentVolumeClaims(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	}
	return timeUntil(ctx, "PersistentVolume "+volume+" is gone", volume, b.client.CoreV1().PersistentVolumes().Watch, remove,
		func(event watch.Event) bool { return event.Type == watch.Deleted })
}
