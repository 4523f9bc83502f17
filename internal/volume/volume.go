package volume

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/berth-storage/berth/internal/export"
)

// State is how far a volume's life has got.
type State string

// The states of a volume.
const (
	StateCreating  State = "creating"  // begun; whoever asks for it again finishes it
	StateReady     State = "ready"     // size, owner, mode, record and content are complete
	StateDiscarded State = "discarded" // out of clients' sight; its bytes are being freed
	StateRetained  State = "retained"  // its claim is gone; it stays where it is
	StateArchiving State = "archiving" // its claim is gone; it is on its way to ArchivePath
	StateArchived  State = "archived"  // its claim is gone; it lies at ArchivePath until it is restored or purged
	StateSnapshot  State = "snapshot"  // complete, and never exported; see Snapshotter
)

// Reclaim says what becomes of a volume's data when its claim is deleted.
type Reclaim string

// The values of Reclaim.
const (
	ReclaimDelete Reclaim = "delete"
	ReclaimRetain Reclaim = "retain"
)

// Claim is who asked for a volume.
type Claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func (c Claim) String() string { return c.Namespace + "/" + c.Name }

// Owner is the owner and mode of a volume's top directory.
type Owner struct {
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode uint32 `json:"mode"` // the twelve permission bits of chmod(2)
}

// ExportRef is the part of a volume's export that never changes in its life.
type ExportRef struct {
	ID     export.ID     `json:"id"`
	FSID   export.FSID   `json:"fsid"`
	Path   string        `json:"path"` // what clients mount
	Squash export.Squash `json:"squash"`
}

// Limit names what keeps a volume to its size, in the backend's own word.
type Limit string

// LimitNone says that nothing does: the size is advisory.
const LimitNone Limit = ""

// Found is what a directory, or a dataset of ZFS, is like that no record names.
type Found struct {
	Owner   Owner
	Project uint32 // what a directory's content is counted by on xfs and ext4; 0: nothing
	// Dir is where a dataset is mounted on its host, and Properties are those of it that
	// are set on itself, and what tells its size and origin.
	Dir        string
	Properties map[string]string
}

// Usage is what a volume takes up, as what limits it counts that.
type Usage struct {
	Bytes  uint64
	Inodes uint64 // files, folders and all else that has an inode; 0 if they are not counted
	// LimitBytes and LimitInodes are what is enforced now, as the storage tells it and
	// not the record; 0: no limit.
	LimitBytes, LimitInodes uint64
}

// Source is what a new volume's content comes from: a volume, a snapshot of one, or an archive.
type Source struct {
	// Volume is a ready volume of the same namespace. What is in it then is in the new one
	// too; from then on they have nothing to do with each other. See Cloner.
	Volume Name
	// Snapshot is one of Volume, which may be gone by now: what is in that. Without Volume it is nothing.
	Snapshot Name
	// Pool is the one that has Volume and Snapshot; "" is that of the new volume. From another one it is copied; see Filler.
	Pool string
	// Archive is an archived or retained volume, which becomes the new one: its content
	// is moved and its record consumed.
	Archive Name
}

// Spec is what a volume shall be.
type Spec struct {
	Name    Name
	Path    RelPath // where it lies below the pool's root
	Size    int64   // bytes, more than 0
	Inodes  int64   // how many files and folders it may hold; 0: as many as the pool can
	Claim   Claim
	Cluster string // which cluster the claim is of: the uid of its namespace kube-system; "" if that may not be read
	Reclaim Reclaim
	// OnDelete is what Delete makes of it, if Kubernetes' own policy lets it come to that.
	OnDelete OnDelete
	Existing Existing // "" is ExistingRefuse
	Owner    Owner
	GIDs     GIDRange // if not zero, Owner.GID becomes one of these that no other volume of the pool has
	Export   ExportRef
	From     *Source // nil: empty
	Settings Settings
}

// Validate says whether s can be asked of a backend.
func (s Spec) Validate() error {
	switch {
	case s.Name == Name{}:
		return fmt.Errorf("%w: no name", ErrInvalid)
	case s.Path == RelPath{}:
		return fmt.Errorf("%w: volume %s: no path", ErrInvalid, s.Name)
	case s.Size <= 0:
		return fmt.Errorf("%w: volume %s: size %d is not a positive number of bytes", ErrInvalid, s.Name, s.Size)
	case s.Inodes < 0:
		return fmt.Errorf("%w: volume %s: %d inodes is below 0", ErrInvalid, s.Name, s.Inodes)
	case s.Claim.UID == "":
		return fmt.Errorf("%w: volume %s: no claim", ErrInvalid, s.Name)
	case s.Owner.Mode > 0o7777:
		return fmt.Errorf("%w: volume %s: mode %o has more than permission bits", ErrInvalid, s.Name, s.Owner.Mode)
	case s.From != nil && ((s.From.Volume == Name{}) == (s.From.Archive == Name{}) ||
		(s.From.Snapshot != Name{} || s.From.Pool != "") && s.From.Volume == Name{}):
		return fmt.Errorf("%w: volume %s: its source has to be one of a volume, a snapshot of one, and an archive", ErrInvalid, s.Name)
	}
	if _, err := ParseOnDelete(string(s.OnDelete)); err != nil {
		return fmt.Errorf("volume %s: onDelete: %w", s.Name, err)
	}
	if _, err := ParseExisting(string(s.Existing)); err != nil {
		return fmt.Errorf("volume %s: existing: %w", s.Name, err)
	}
	if _, err := ParseSizing(string(s.Settings.Sizing)); err != nil {
		return fmt.Errorf("volume %s: sizing: %w", s.Name, err)
	}
	return nil
}

// Volume is one claim's storage, as its record tells it. The record is Berth's
// only account of a volume and is stored with it; what it does not name, Berth
// does not touch.
type Volume struct {
	Name   Name    `json:"name"`
	Path   RelPath `json:"path"`
	Size   int64   `json:"size"`             // bytes
	Inodes int64   `json:"inodes,omitempty"` // see Spec
	Limit  Limit   `json:"limit,omitempty"`  // what enforces Size and Inodes
	// QuotaID is the number that the storage counts the volume's content by: a project
	// of xfs or ext4, a subvolume of btrfs. It is the volume's until it is purged. With
	// no Limit it is not known yet whether the number could be had.
	QuotaID  uint64   `json:"quotaId,omitempty"`
	Claim    Claim    `json:"claim"`
	Cluster  string   `json:"cluster"`
	Reclaim  Reclaim  `json:"reclaim"`
	OnDelete OnDelete `json:"onDelete,omitempty"` // "" is OnDeleteDelete
	// Shared says that it was made with ExistingShare, so that others may have its path too.
	Shared bool `json:"shared,omitempty"`
	// TookOver says that its directory was there before it, and nobody's.
	TookOver bool `json:"tookOver,omitempty"`
	// RestoredFrom is the volume whose content it got; see Source.Archive.
	RestoredFrom Name `json:"restoredFrom,omitzero"`
	// ClonedFrom is the volume whose content it has had from the start, or that of
	// FromSnapshot; see Source.
	ClonedFrom   Name `json:"clonedFrom,omitzero"`
	FromSnapshot Name `json:"fromSnapshot,omitzero"`
	// CopiedFrom is what of another pool it has had the content of from the start; see Source.Pool.
	CopiedFrom Origin `json:"copiedFrom,omitzero"`
	// SnapshotOf is the volume that this is a snapshot of. Claim is the one that had the volume then, Size
	// what a restored one needs at least, and Export says nothing.
	SnapshotOf Name `json:"snapshotOf,omitzero"`
	// Copied says that a snapshot was copied file by file, while the volume was in use: each
	// file is as of some moment between Created and when it was complete.
	Copied bool `json:"copied,omitempty"`
	// Sizing, Share and KeepSnapshots are those of Settings.
	Sizing        Sizing    `json:"sizing,omitempty"`
	Share         string    `json:"share,omitempty"`
	KeepSnapshots bool      `json:"keepSnapshots,omitempty"`
	Owner         Owner     `json:"owner"`
	Export        ExportRef `json:"export"`
	Created       time.Time `json:"created"`
	State         State     `json:"state"`
	Published     bool      `json:"published"` // a PersistentVolume of it was seen, ever
	// Ended is when the claim was deleted of a volume that is retained or archived.
	Ended time.Time `json:"ended,omitzero"`
	// ArchivePath is where an archived volume lies, below the pool's root; else "".
	ArchivePath string `json:"archivePath,omitempty"`
	// ArchiveBytes is what it takes up there; 0 if nobody has counted yet.
	ArchiveBytes int64 `json:"archiveBytes,omitempty"`
	// Origin is the program that made the volume, if it was not Berth.
	Origin string `json:"origin,omitempty"`
	Rev    int64  `json:"revision"` // grows with each change of the record

	// Dir is the absolute path of the volume's tree on this host. It is derived
	// from the pool, not part of the record.
	Dir string `json:"-"`
}

// New is the volume that s asks for, before anything of it is made.
func New(s Spec, now time.Time) Volume {
	v := Volume{
		Name: s.Name, Path: s.Path, Size: s.Size, Inodes: s.Inodes, Claim: s.Claim, Cluster: s.Cluster, Reclaim: s.Reclaim,
		Shared: s.Existing == ExistingShare, Owner: s.Owner, Export: s.Export, Created: now.UTC().Truncate(time.Second), State: StateCreating,
		Sizing: s.Settings.Sizing, Share: s.Settings.Share, KeepSnapshots: s.Settings.KeepSnapshots,
	}
	if s.OnDelete != OnDeleteDelete {
		v.OnDelete = s.OnDelete
	}
	switch {
	case s.copied():
		v.CopiedFrom = Origin{s.From.Pool, s.From.Volume, s.From.Snapshot}
	case s.From != nil:
		v.RestoredFrom, v.ClonedFrom, v.FromSnapshot = s.From.Archive, s.From.Volume, s.From.Snapshot
	}
	return v
}

// Is says whether v is the volume that s asks for, however far it got.
func (v Volume) Is(s Spec) bool {
	return v.Name == s.Name && v.Claim == s.Claim && (v.Cluster == s.Cluster || v.Cluster == "")
}

// IsCopy says whether v has, or is to get, what another volume or a snapshot holds, of its own pool or another one.
func (v Volume) IsCopy() bool { return v.ClonedFrom != Name{} || v.CopiedFrom != Origin{} }

// CopyOf says whether v was made, or begun, as a clone or copy of what s asks for, or as none if s does not.
func (v Volume) CopyOf(s Spec) bool {
	w := New(s, v.Created)
	return v.ClonedFrom == w.ClonedFrom && v.FromSnapshot == w.FromSnapshot && v.CopiedFrom == w.CopiedFrom
}

// AsExport is the export that v's record wants, to be mounted by clients.
func (v Volume) AsExport(clients export.Clients) export.Export {
	return export.Export{ID: v.Export.ID, FSID: v.Export.FSID, Dir: v.Dir, Path: v.Export.Path, Squash: v.Export.Squash, Clients: clients}
}

// Backend makes volumes of one kind. The Manager never calls two methods for
// one name at the same time; for different names it does. A method that returns
// an error because ctx ended leaves the volume in a state that the same call
// goes on from.
//
// Possible errors beside those named: ErrUnknown, and ErrInvalid for what
// Validate refuses.
type Backend interface {
	// Create makes the volume of s, or goes on making it, and returns it ready.
	// The record is written first, so that nothing is ever made that no record
	// names. ErrExists if the name is another claim's, or is kept: retained or archived.
	// ErrBusy if it is discarded and not purged yet. ErrForeign if something that no record names
	// lies at its path and s.Existing does not allow that, or if its path is another
	// cluster's. ErrNotFound if what it shall be restored from is not kept. ErrNoSpace,
	// ErrUnsupported for a Source.
	//
	// Owner is that of s as far as the storage lets anybody set it: no uid or gid
	// but 0 may be passed over.
	Create(ctx context.Context, s Spec) (Volume, error)
	// Get reads one record. ErrNotFound only if the storage was read and has no
	// such record.
	Get(ctx context.Context, n Name) (Volume, error)
	// List reads every record, of each state. A record that cannot be read is
	// given as an error and does not end the list; ErrUnknown does: it says that
	// there may be more records.
	List(ctx context.Context) iter.Seq2[Volume, error]
	// Update replaces the record if v.Rev is still the record's (else ErrConflict), and
	// returns v with the next Rev. A new Size or Inodes becomes the real limit before
	// the record says so; Size may be rounded up as by Create. ErrNotFound,
	// ErrUnsupported for Inodes where nothing can limit them.
	Update(ctx context.Context, v Volume) (Volume, error)
	// Discard makes n vanish from clients' sight in constant time, whatever its state;
	// discarding again finishes what was begun. ErrNotFound.
	Discard(ctx context.Context, n Name) error
	// Purge frees a discarded volume's bytes and then its record. ErrConflict if
	// n is not discarded, ErrNotFound.
	Purge(ctx context.Context, n Name) error
}

// Capacity is a pool's room in bytes.
type Capacity struct {
	Total     uint64
	Available uint64
}

// Meter is the ability to tell a pool's capacity.
type Meter interface {
	Capacity(ctx context.Context) (Capacity, error)
}

// UsageMeter is the ability to tell what a volume takes up.
type UsageMeter interface {
	// Usage of v, a volume of this backend. It is quick, and may be some seconds old.
	// ErrUnsupported if nothing counts it.
	Usage(ctx context.Context, v Volume) (Usage, error)
}

// Mounter is the ability of a backend whose volumes have to be mounted before a
// server can export them.
type Mounter interface {
	// Mount makes a ready volume exportable at its Dir. Mounting again changes nothing;
	// Discard ends it.
	Mount(ctx context.Context, v Volume) error
}
