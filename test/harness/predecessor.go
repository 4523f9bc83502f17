package harness

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Predecessor is an export folder as nfs-provisioner leaves it, and the NFS server that
// serves it.
type Predecessor struct {
	Root string
	// Identity is what the folder's PersistentVolumes have as Provisioner_Id; "" for the
	// first version, which had none.
	Identity string
	// FSIDDevice is the value of Ganesha's fsid_device; "" for a version that did not set it.
	FSIDDevice string

	blocks strings.Builder
}

// Add makes the directory of a volume, below which anybody may write, and its export. It
// gives the text that goes to the PersistentVolume's annotation EXPORT_block.
func (p *Predecessor) Add(name string, id int, squash string) (block string, err error) {
	dir := filepath.Join(p.Root, name)
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		return "", err
	}
	block = p.Block(name, id, squash)
	p.blocks.WriteString(block)
	return block, nil
}

// Block is the export of a volume as nfs-provisioner writes it.
func (p *Predecessor) Block(name string, id int, squash string) string {
	dir := filepath.Join(p.Root, name)
	return fmt.Sprintf("\nEXPORT\n{\n\tExport_Id = %[1]d;\n\tPath = %[2]s;\n\tPseudo = %[2]s;\n\tAccess_Type = RW;\n\tSquash = %[3]s;\n\tSecType = sys;\n"+
		"\tFilesystem_id = %[1]d.%[1]d;\n\tFSAL {\n\t\tName = VFS;\n\t}\n}\n", id, dir, squash)
}

// Write writes the files of nfs-provisioner.
func (p *Predecessor) Write() error {
	if p.Identity != "" {
		if err := os.WriteFile(filepath.Join(p.Root, "nfs-provisioner.identity"), []byte(p.Identity), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(p.Root, "vfs.conf"), []byte(p.config("")), 0o600)
}

// config is vfs.conf, with more lines in the block NFS_Core_Param.
func (p *Predecessor) config(more string) string {
	fsidDevice := ""
	if p.FSIDDevice != "" {
		fsidDevice = "\tfsid_device = " + p.FSIDDevice + ";\n"
	}
	return `
###################################################
#
# EXPORT
#
# To function, all that is required is an EXPORT
#
###################################################

EXPORT
{
	# Export Id (mandatory, each EXPORT must have a unique Export_Id)
	Export_Id = 0;

	# Exported path (mandatory)
	Path = /nonexistent;

	# Pseudo Path (required for NFS v4)
	Pseudo = /nonexistent;

	Access_Type = RW;

	FSAL {
		Name = VFS;
	}
}

NFS_Core_Param
{
	MNT_Port = 20048;
` + fsidDevice + more + `}

NFSV4
{
	Grace_Period = 90;
}
` + p.blocks.String()
}

// Serve runs nfs-provisioner's NFS server, NFSv4 only, on a port of loopback. What it
// writes goes to folder.
func (p *Predecessor) Serve(folder string, port int) (*Process, error) {
	config := filepath.Join(folder, "predecessor.conf")
	text := p.config("\tNFS_Protocols = 4;\n\tNFS_Port = "+strconv.Itoa(port)+";\n\tBind_addr = 127.0.0.1;\n\tEnable_NLM = false;\n\tEnable_RQUOTA = false;\n") +
		"NFSv4 { Graceless = true; RecoveryRoot = " + folder + "; }\nNFS_KRB5 { Active_krb5 = false; }\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return Start(filepath.Join(folder, "predecessor.out"), "ganesha.nfsd", "-F", "-f", config,
		"-L", filepath.Join(folder, "predecessor.log"), "-p", filepath.Join(folder, "predecessor.pid"))
}

// Share is an NFS server's share on which nfs-subdir-external-provisioner works.
type Share struct{ Provisioner, Server, Path string }

// SubdirVolume makes the directory of a claim's volume, at a path below root, where share
// is mounted, and gives the PersistentVolume as nfs-subdir-external-provisioner writes it.
func SubdirVolume(claim *v1.PersistentVolumeClaim, share Share, root, at string) (*v1.PersistentVolume, error) {
	dir := filepath.Join(root, at)
	if err := errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		return nil, err
	}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: "pvc-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": share.Provisioner},
		},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: *claim.Spec.StorageClassName, AccessModes: claim.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef: &v1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{Server: share.Server, Path: path.Join(share.Path, at)}},
		},
	}, nil
}
