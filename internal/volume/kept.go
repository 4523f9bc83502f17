package volume

import (
	"context"
	"fmt"
	"time"
)

// OnDelete says what Manager.Delete makes of a volume.
type OnDelete string

// The values of OnDelete.
const (
	OnDeleteDelete  OnDelete = "delete"  // its data is removed; the same as ""
	OnDeleteRetain  OnDelete = "retain"  // it stays where it is, with its record
	OnDeleteArchive OnDelete = "archive" // it is moved aside, see Archiver
)

// ParseOnDelete reads a value of OnDelete; "" is OnDeleteDelete.
func ParseOnDelete(s string) (OnDelete, error) {
	switch o := OnDelete(s); o {
	case "", OnDeleteDelete:
		return OnDeleteDelete, nil
	case OnDeleteRetain, OnDeleteArchive:
		return o, nil
	}
	return "", fmt.Errorf("%w: %.64q is none of %s, %s and %s", ErrInvalid, s, OnDeleteDelete, OnDeleteRetain, OnDeleteArchive)
}

// Existing says what becomes of a directory that is at a new volume's path already. A
// path inside of another volume's, or around one, is refused whatever it says.
type Existing string

// The values of Existing.
const (
	// ExistingRefuse: the volume is not made. The same as "".
	ExistingRefuse Existing = "refuse"
	// ExistingReuse: it becomes the volume's, with its content, unless it is that of a
	// volume that is not retained. One that was retained is for claims of its namespace
	// only, and its record is consumed.
	ExistingReuse Existing = "reuse"
	// ExistingShare is ExistingReuse, and volumes that were made with ExistingShare have
	// one path together, if they have the very same. Their data goes with the last.
	ExistingShare Existing = "share"
)

// ParseExisting reads a value of Existing; "" is ExistingRefuse.
func ParseExisting(s string) (Existing, error) {
	switch e := Existing(s); e {
	case "", ExistingRefuse:
		return ExistingRefuse, nil
	case ExistingReuse, ExistingShare:
		return e, nil
	}
	return "", fmt.Errorf("%w: %.64q is none of %s, %s and %s", ErrInvalid, s, ExistingRefuse, ExistingReuse, ExistingShare)
}

// Archiver is the ability to keep what a deleted volume held, and to give a new volume
// what is there already: without it there is no OnDeleteArchive, no Source.Archive, and
// no Existing but ExistingRefuse.
type Archiver interface {
	// Archive moves n, which is ready, out of its path and of clients' sight, in constant
	// time; its state is StateArchived then, and ArchivePath says where it is. Archiving
	// again finishes what was begun. If the place is one where volumes can lie too it
	// must be had by take first, which refuses one that a volume or archive is at, in or
	// around; a place that was recorded before needs no taking. Of a volume that is still being
	// made from a Source the content goes back to what it came from, and nothing of it
	// is left. ErrNotFound also if n has no directory, so that there is nothing to keep.
	Archive(ctx context.Context, n Name, take func(RelPath) error) (Volume, error)
	// Release removes the record of n and nothing else: its directory is another volume's
	// too, or was there before it. ErrNotFound.
	Release(ctx context.Context, n Name) error
	// Measure counts the bytes that v takes up by looking at each of its files.
	Measure(ctx context.Context, v Volume) (int64, error)
}

// ArchivePolicy says how long archives are kept. The zero value keeps them until
// somebody removes them.
type ArchivePolicy struct {
	MaxAge   time.Duration // since the claim was deleted; 0: without end
	MaxBytes int64         // of all archives of the pool, the oldest of which go first; 0: without bounds
}
