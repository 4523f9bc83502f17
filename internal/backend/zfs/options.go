package zfs

import (
	"context"
	"log/slog"

	"github.com/berth-storage/berth/internal/volume"
)

// Runner runs programs on the host that has the pool: zfs, and if that is another host,
// chown and chmod.
type Runner interface {
	// Output runs argv, a program's name and its arguments as they are, and gives what it printed on
	// standard output. It ends in one of three ways: done (nil), refused (*run.ExitError:
	// the program ran and said so), or with any other error not known.
	Output(ctx context.Context, argv []string) ([]byte, error)
}

// OnClones says what becomes of a deleted volume that has clones.
type OnClones string

// The values of OnClones.
const (
	// OnClonesWait: its bytes stay, out of sight, until the last clone is deleted.
	OnClonesWait OnClones = "wait"
	// OnClonesPromote: the clones get what they need of it, and it goes at once (zfs promote).
	OnClonesPromote OnClones = "promote"
)

// Options of Open.
type Options struct {
	// Dataset is the parent of all volumes, like tank/volumes. It exists and is mounted.
	Dataset string
	Runner  Runner
	// Local: the datasets are mounted on this host, so that owners and modes are set by
	// system calls, and one process at a time opens the pool. Without it they are set by commands.
	Local bool
	// Share is the sharenfs of each volume, in the words of the pool's host; "" and "off":
	// ZFS shares none of them, and there is no Sharer.
	Share string
	// Sizing is that of volumes whose Settings do not say; "" is volume.SizingBoth.
	Sizing volume.Sizing
	// Properties are those of each volume, as far as its own Settings do not say.
	Properties map[string]string
	OnClones   OnClones // "" is OnClonesWait
	Log        *slog.Logger
}
