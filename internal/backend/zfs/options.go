package zfs

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/zfsproperty"
)

// Runner runs programs on the host that has the pool: zfs, and if that is another host,
// chown and chmod.
type Runner interface {
	// Output runs argv, a program's name and its arguments as they are, with messages in
	// English (LC_ALL=C), and gives what it printed on standard output. It ends in one
	// of three ways: done (nil), refused (*run.ExitError, with all that it printed: the
	// program ran and said so), or with any other error not known.
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

// ShareInherit is a value of Options.Share.
const ShareInherit = "inherit"

// Options of Open.
type Options struct {
	// Dataset is the parent of all volumes, like tank/volumes. It exists and is mounted.
	Dataset string
	Runner  Runner
	// Local: the datasets are mounted on this host, so that owners and modes are set by
	// system calls, and one process at a time opens the pool. Without it they are set by commands.
	Local bool
	// Wait, if not nil, is called when another process has a local pool open; Open then
	// waits for that process to end instead of giving up.
	Wait func()
	// Share is the sharenfs of each volume, in the words of the pool's host; "" and "off":
	// ZFS shares none of them, and there is no Sharer. ShareInherit: that of the parent when it is opened.
	Share string
	// Release, if not nil, has the NFS server of this host let go of the file system of a device, which is
	// mounted at dir and not exported any more. Device 0: of one that was mounted at dir, and is mounted nowhere now.
	Release func(ctx context.Context, dir string, device uint64) error
	// Sizing is that of volumes whose Settings do not say; "" is volume.SizingBoth.
	Sizing volume.Sizing
	// Properties are those of each volume, as far as its own Settings do not say.
	Properties map[string]string
	OnClones   OnClones // "" is OnClonesWait
	Log        *slog.Logger
}

const (
	off = "off"
	// maxDataset is the longest name that every ZFS takes (zfs(8): 255 bytes with that of a snapshot).
	maxDataset = 255
)

// element is what may stand between the slashes of a dataset's name: zfs(8), without the space.
var element = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

func (o *Options) complete() error {
	if err := checkDataset(o.Dataset); err != nil {
		return err
	}
	if o.Sizing == "" {
		o.Sizing = volume.SizingBoth
	}
	if _, err := volume.ParseSizing(string(o.Sizing)); err != nil {
		return err
	}
	switch o.OnClones {
	case "":
		o.OnClones = OnClonesWait
	case OnClonesWait, OnClonesPromote:
	default:
		return fmt.Errorf("%w: clones: %q is neither %s nor %s", volume.ErrInvalid, o.OnClones, OnClonesWait, OnClonesPromote)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return checkSettings(volume.Settings{Properties: o.Properties, Share: o.Share})
}

func checkDataset(name string) error {
	if strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") {
		return fmt.Errorf("%w: dataset %q: a dataset's name has no slash at its start or end; it is not a path (zfs list -o name,mountpoint shows both)", volume.ErrInvalid, name)
	}
	for e := range strings.SplitSeq(name, "/") {
		if !element.MatchString(e) || e == "." || e == ".." {
			return fmt.Errorf("%w: %.256q cannot be the name of a dataset, like tank/volumes", volume.ErrInvalid, name)
		}
	}
	if first := name[0]; first == '-' || len(name) > maxDataset {
		return fmt.Errorf("%w: %.256q cannot be the name of a dataset, like tank/volumes", volume.ErrInvalid, name)
	}
	return nil
}

func checkSettings(s volume.Settings) error {
	for name, value := range s.Properties {
		if err := zfsproperty.CheckNative(name); err != nil {
			return fmt.Errorf("%w: %w", volume.ErrInvalid, err)
		}
		if value == "" || !printable(value) {
			return fmt.Errorf("%w: property %s: %.64q is no value", volume.ErrInvalid, name, value)
		}
	}
	if !printable(s.Share) {
		return fmt.Errorf("%w: %.64q is no value of sharenfs", volume.ErrInvalid, s.Share)
	}
	_, err := volume.ParseSizing(string(s.Sizing))
	return err
}

// printable says whether s stays one field of one line in the output of zfs.
func printable(s string) bool {
	return len(s) <= 1024 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
