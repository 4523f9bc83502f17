package kube

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// ZFS is what the front end has to know of a pool of datasets.
type ZFS struct {
	Dataset string // the parent, by which classes may name the pool
	// Server is the NFS server in PersistentVolumes; "": as Options say.
	Server string
	// Hosts are the names by which a class may know the pool's host; none: any name will do.
	Hosts  []string
	Sizing volume.Sizing // that of volumes whose class does not say
	Type   VolumeType    // of PersistentVolumes, if the class does not say; "" is VolumeNFS
	// Node is the label kubernetes.io/hostname of the pool's host, for PersistentVolumes
	// that only its pods can use; "": the node that this instance runs on.
	Node string
	// Shares: ZFS exports the volumes itself, by sharenfs. LocalOnly: nobody does.
	Shares    bool
	LocalOnly bool
	// KeepSnapshots, if the class does not say; see volume.Settings.
	KeepSnapshots bool
	// WidenAccessModes has PersistentVolumes say all access modes that they are good for, and not only
	// those that the claim asks for.
	WidenAccessModes bool
	// ClaimAnnotations are the annotations that claims may use, without their prefix; see
	// zfsproperty.Annotations.
	ClaimAnnotations []string
}

// VolumeType is the kind of PersistentVolumes.
type VolumeType string

// The values of VolumeType.
const (
	VolumeNFS      VolumeType = "nfs"
	VolumeHostPath VolumeType = "hostPath"
	VolumeLocal    VolumeType = "local"
	// VolumeAuto is VolumeHostPath if the claim's pods can only be on the pool's host, else
	// VolumeNFS.
	VolumeAuto VolumeType = "auto"
)

// parseVolumeType reads a value in any case, as kubernetes-zfs-provisioner does.
func parseVolumeType(text string) (VolumeType, error) {
	all := []VolumeType{VolumeNFS, VolumeHostPath, VolumeLocal, VolumeAuto}
	i := slices.IndexFunc(all, func(t VolumeType) bool { return strings.EqualFold(text, string(t)) })
	if i < 0 {
		return "", fmt.Errorf("%s, %s, %s or %s", VolumeNFS, VolumeHostPath, VolumeLocal, VolumeAuto)
	}
	return all[i], nil
}

// zfsParameters are names that only classes of ZFS pools may use, with those of
// zfsproperty.All. The last three say to a fork of kubernetes-zfs-provisioner how its
// instances divide up claims; Berth's do that without being told.
var zfsParameters = []string{
	"parentDataset", "hostname", "type", "node", "shareProperties", "reserveSpace", "destroySnapshots",
	"zfs-provisioner-claimMap-namespace", "zfs-provisioner-claimMap-name", "zfs-provisioner-count",
}

// sharing is a value of the property sharenfs, on Linux and on FreeBSD.
var sharing = regexp.MustCompile(`^[-A-Za-z0-9_=,.:;@/*?%+\[\] ]{1,1000}$`)

// hostName is that of an NFS server, or an IP address.
var hostName = regexp.MustCompile(`^[A-Za-z0-9:\[][-A-Za-z0-9_.:\]]{0,252}$`)

// nodeName is a value of a label; see
// https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)

// setZFS sets a parameter of classes of ZFS pools.
func (p *parameters) setZFS(key, value string) (err error) {
	z := p.pool.ZFS
	if z == nil {
		return fmt.Errorf("possible, because the volumes of pool %s are not ZFS datasets; remove it", p.pool.Volumes.Pool())
	}
	switch key {
	case "hostname": // with parentDataset it says which pool, see poolsFor
		if !hostName.MatchString(value) {
			return fmt.Errorf("the name or IP address of an NFS server")
		}
		p.server, p.hostname = value, value
	case "type":
		p.volumeType, err = parseVolumeType(value)
	case "node":
		if !nodeName.MatchString(value) {
			return fmt.Errorf("the label kubernetes.io/hostname of a node")
		}
		p.node = value
	case "shareProperties":
		if !sharing.MatchString(value) || strings.TrimSpace(value) == "" {
			return fmt.Errorf("options of the property sharenfs, like rw=@10.0.0.0/8")
		}
		p.settings.Share = value
	case "reserveSpace":
		return p.setReservation(value)
	case "destroySnapshots":
		destroy, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("true or false")
		}
		p.settings.KeepSnapshots = !destroy
	default:
		return p.setProperty(key, value)
	}
	return err
}

func (p *parameters) setReservation(value string) error {
	reserve, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("true or false")
	}
	limited := p.pool.ZFS.Sizing != volume.SizingIgnore && p.pool.ZFS.Sizing != volume.SizingReservation
	switch {
	case reserve && limited:
		p.settings.Sizing = volume.SizingBoth
	case reserve:
		p.settings.Sizing = volume.SizingReservation
	case limited:
		p.settings.Sizing = volume.SizingQuota
	default:
		p.settings.Sizing = volume.SizingIgnore
	}
	return nil
}

// setProperty sets a property of the dataset, if key is the name of one.
func (p *parameters) setProperty(key, value string) error {
	property, ok := zfsproperty.ByName(key)
	if !ok {
		return nil
	}
	native, err := property.Value(value)
	if err != nil {
		return fmt.Errorf("a value of %s: %s", property.ZFS, property.Allowed())
	}
	if p.settings.Properties == nil {
		p.settings.Properties = map[string]string{}
	}
	p.settings.Properties[property.ZFS] = native
	return nil
}

// mountsOf are the mount options of a class. A fork of kubernetes-zfs-provisioner has the
// volume's group among them, as gid=5000, which is none that NFS knows.
func (p *parameters) mountsOf(class *storagev1.StorageClass) ([]string, error) {
	options := class.MountOptions
	if options == nil && p.mountOptions != "" {
		options = strings.FieldsFunc(p.mountOptions, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if p.pool.ZFS == nil {
		return options, nil
	}
	isGroup := func(option string) bool { return strings.HasPrefix(option, "gid=") }
	i := slices.IndexFunc(options, isGroup)
	if i < 0 {
		return options, nil
	}
	if err := p.setGroup(strings.TrimPrefix(options[i], "gid=")); err != nil {
		return nil, fmt.Errorf("%w: mount option %s of the StorageClass: the group is not %w", volume.ErrInvalid, options[i], err)
	}
	if parameter(class.Parameters, "mode") == "" {
		p.owner.Mode = modeOfGroup
	}
	return slices.DeleteFunc(slices.Clone(options), isGroup), nil
}

// checkType refuses a type that the pool cannot have.
func (p *parameters) checkType() error {
	z := p.pool.ZFS
	switch {
	case z == nil:
	case z.LocalOnly && (p.volumeType == VolumeNFS || p.volumeType == VolumeAuto):
		return fmt.Errorf("%w: StorageClass parameter type: %q is not possible, because pool %s exports nothing: say %s or %s",
			volume.ErrInvalid, p.volumeType, p.pool.Volumes.Pool(), VolumeHostPath, VolumeLocal)
	case p.volumeType == VolumeNFS && p.settings.Share == "off":
		return fmt.Errorf("%w: StorageClass parameter shareProperties: \"off\" and type %s: nobody could mount the volume", volume.ErrInvalid, VolumeNFS)
	case p.volumeType == VolumeHostPath || p.volumeType == VolumeLocal:
		p.settings.Share = ""
		if z.Shares {
			p.settings.Share = "off"
		}
	case p.settings.Share != "" && !z.Shares:
		return fmt.Errorf("%w: StorageClass parameter shareProperties: is not possible, because the volumes of pool %s are not exported by ZFS; remove it",
			volume.ErrInvalid, p.pool.Volumes.Pool())
	}
	return nil
}
