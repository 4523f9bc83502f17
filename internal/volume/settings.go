package volume

import (
	"context"
	"fmt"
)

// Settings are what only some storage knows. The zero value leaves everything to the
// pool. What a backend cannot do it refuses: ErrUnsupported.
type Settings struct {
	// Properties are native properties of the volume's file system, by the names that the
	// storage gives them, over those that the pool gives to each volume. They are set once, when it is made.
	Properties map[string]string
	Sizing     Sizing // "": the pool's
	// Share says how a storage that exports volumes by itself shares this one, in its own
	// words (sharenfs of ZFS); "off": not at all. "": the pool's.
	Share string
	// KeepSnapshots has the volume's deletion refused as long as it has snapshots that Berth did not make.
	KeepSnapshots bool
}

// isZero says whether everything is left to the pool.
func (s Settings) isZero() bool {
	return len(s.Properties) == 0 && s.Sizing == "" && s.Share == "" && !s.KeepSnapshots
}

// Sizing says what the size of a volume is, on storage that has more than one way.
type Sizing string

// The values of Sizing.
const (
	SizingIgnore      Sizing = "ignore"      // a number that nothing enforces
	SizingQuota       Sizing = "quota"       // it cannot hold more
	SizingReservation Sizing = "reservation" // so much room is kept for it alone
	SizingBoth        Sizing = "both"        // SizingQuota and SizingReservation
)

// ParseSizing reads a value of Sizing; "" stays what it is.
func ParseSizing(s string) (Sizing, error) {
	switch z := Sizing(s); z {
	case "", SizingIgnore, SizingQuota, SizingReservation, SizingBoth:
		return z, nil
	}
	return "", fmt.Errorf("%w: %.64q is none of %s, %s, %s and %s", ErrInvalid, s, SizingIgnore, SizingQuota, SizingReservation, SizingBoth)
}

// Configurable is the ability to do what Settings say.
type Configurable interface {
	// CheckSettings says why no volume can be made with s: ErrInvalid, or ErrUnsupported.
	CheckSettings(s Settings) error
}

// Cloner is the ability to make a volume that holds from the start what another one or a snapshot
// holds: Source.Volume and Snapshot. Storage that has to copy for that tells p how far it has got. A
// volume or snapshot that has clones can be discarded, but if it shares its bytes with them its
// Purge is ErrCloned until they are purged.
type Cloner interface {
	// Clone is Create for an s whose From is a volume or snapshot, and promises the same.
	// ErrNotFound if that is not there, or is not ready, and the new one was not begun. The
	// Manager sees to it that it does not go away meanwhile.
	Clone(ctx context.Context, s Spec, p *Progress) (Volume, error)
}

// DiscardChecker is the ability to know what speaks against the end of a volume.
type DiscardChecker interface {
	// CheckDiscard says why v must not be discarded now, before anything of that is
	// begun: ErrConflict, with what an administrator can do about it.
	CheckDiscard(ctx context.Context, v Volume) error
}
