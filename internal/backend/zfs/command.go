package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/run"
	"github.com/berth-storage/berth/internal/volume"
)

// What zfs(8) says, in the words of libzfs (lib/libzfs/libzfs_util.c of OpenZFS, and the
// older ones of zfs-fuse), which are the same on all systems.
var (
	saysMissing  = []string{"dataset does not exist"}
	saysExists   = []string{"dataset already exists"}
	saysBusy     = []string{"is busy", "unmount failed", "Device busy"}
	saysFull     = []string{"out of space", "size is greater than available space", "disk quota exceeded"}
	saysTooSmall = []string{"size is less than current used or reserved space"}
	saysHolds    = []string{"filesystem has children", "has dependent clones", "volume has children"}
	// The dataset is there, but it is not mounted or not shared.
	saysCreated   = []string{"filesystem successfully created"}
	saysMounted   = []string{"filesystem already mounted"}
	saysUnmounted = []string{"not currently mounted"}
	saysShared    = []string{"filesystem already shared"}
	saysInvalid   = []string{"invalid property", "must be one of", "bad property", "property value too long", "is readonly", "must be a power of"}
)

// zfs runs zfs(8). Its error is a *run.ExitError if zfs said no, volume.ErrBusy if it was
// not run at all; any other is volume.ErrUnknown, or that of ctx.
func (b *Backend) zfs(ctx context.Context, args ...string) ([]byte, error) {
	return b.run(ctx, append([]string{"zfs"}, args...)...)
}

func (b *Backend) run(ctx context.Context, argv ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx) // nothing was begun
	}
	out, err := b.o.Runner.Output(ctx, argv)
	_, refused := errors.AsType[*run.ExitError](err)
	switch {
	case err == nil, refused:
		return out, err
	case errors.Is(err, run.ErrNotStarted):
		return nil, fmt.Errorf("%w: %w", volume.ErrBusy, err)
	default:
		return nil, fmt.Errorf("%w: %w", volume.ErrUnknown, err)
	}
}

// said says whether err is a refusal in one of these words.
func said(err error, words []string) bool {
	exit, refused := errors.AsType[*run.ExitError](err)
	if !refused {
		return false
	}
	for _, w := range words {
		if strings.Contains(exit.Stderr, w) {
			return true
		}
	}
	return false
}

// meaning gives a refusal its meaning in the domain. What is not refused, and what has no
// meaning there, stays what it is.
func meaning(err error) error {
	for _, m := range []struct {
		words []string
		is    error
	}{
		{saysBusy, volume.ErrBusy}, {saysFull, volume.ErrNoSpace}, {saysTooSmall, volume.ErrInvalid}, {saysInvalid, volume.ErrInvalid},
	} {
		if said(err, m.words) {
			return fmt.Errorf("%w: %w", m.is, err)
		}
	}
	return err
}

// How long a dataset may be busy: what a server has open it lets go of soon after the
// directory was withdrawn, and ZFS itself is busy for a moment after most changes.
const (
	busyFirst = 20 * time.Millisecond
	busyMax   = 250 * time.Millisecond
	busyFor   = 14 * time.Second // zfs-fuse was seen to take 7
)

// patiently runs zfs until it does not say that the dataset is busy.
func (b *Backend) patiently(ctx context.Context, args ...string) error {
	return b.whileBusy(ctx, busyFirst, func() error {
		_, err := b.zfs(ctx, args...)
		return err
	})
}

// whileBusy does something again as long as the dataset is busy, after pauses that grow. It is for
// what unmounts datasets: that is done one at a time, because zfs-fuse hangs otherwise.
func (b *Backend) whileBusy(ctx context.Context, pause time.Duration, do func() error) error {
	for began := time.Now(); ; {
		err := b.alone(ctx, do)
		if err == nil || !said(err, saysBusy) || time.Since(began) > busyFor {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
		pause = max(pause, min(2*pause, busyMax))
	}
}

func (b *Backend) alone(ctx context.Context, do func() error) error {
	select {
	case b.unmounting <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-b.unmounting }()
	return do()
}
