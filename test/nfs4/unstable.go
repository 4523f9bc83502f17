package nfs4

import (
	"context"
	"errors"
	"slices"
)

// maxUncommitted is how much written data a File keeps before it asks the
// server to commit it, even if nobody calls Sync.
const maxUncommitted = 32 << 20

// errDataLost is what a server says by changing its write verifier: it
// restarted, and may have lost writes that were not committed (RFC 7530
// section 16.36.5).
var errDataLost = errors.New("write verifier changed")

// extent is data written at an offset.
type extent struct {
	offset uint64
	data   []byte
}

// unstable is what a File has written and the server has not committed, in the
// order of writing.
type unstable struct {
	extents []extent
	size    int

	verifier verifier // of the server instance that has the extents
	epoch    uint64   // of the lease under which it got them
	lost     bool     // another instance has some of them
}

// add notes that the server took e.
func (u *unstable) add(e extent, res writeResult, epoch uint64) {
	if len(u.extents) == 0 {
		if res.stable {
			return
		}
		*u = unstable{verifier: res.verifier, epoch: epoch}
	}
	if res.verifier != u.verifier {
		u.lost = true
	}
	// Even a stable extent has to follow the ones before it: if those are sent
	// again and overlap it, it must be, too.
	u.extents = append(u.extents, extent{e.offset, slices.Clone(e.data)})
	u.size += len(e.data)
}

// resend sends everything uncommitted again if the server may have lost it. It
// also comes before a READ, which would otherwise show older data.
func (f *File) resend(ctx context.Context) error {
	u := &f.unstable
	epoch := f.c.lease.epoch
	if len(u.extents) == 0 || !u.lost && u.epoch == epoch {
		return nil
	}
	f.c.log.Info("writing again what the server may have lost", "file", f.path, "bytes", u.size)
	first := true
	for _, e := range u.extents {
		for len(e.data) > 0 {
			res, err := f.sendWrite(ctx, e.data[:min(len(e.data), f.c.lease.maxWrite)], e.offset)
			if err != nil {
				return err
			}
			if !first && res.verifier != u.verifier {
				return retryable{errDataLost} // yet another restart: begin again
			}
			first, u.verifier = false, res.verifier
			e.offset += uint64(res.n)
			e.data = e.data[res.n:]
		}
	}
	u.lost, u.epoch = false, epoch
	return nil
}

// commit makes the server store everything uncommitted. Only the verifier of
// its reply tells whether it still had it (RFC 7530 section 16.3.5).
func (f *File) commit(ctx context.Context) error {
	if len(f.unstable.extents) == 0 {
		return nil
	}
	return f.run(ctx, func(ctx context.Context) error {
		var v verifier
		cmp := f.c.newCompound()
		cmp.putFH(f.open.fh)
		cmp.commit(&v)
		if err := f.c.exchange(ctx, cmp); err != nil {
			return err
		}
		if v != f.unstable.verifier {
			f.unstable.lost = true
			return retryable{errDataLost}
		}
		f.unstable = unstable{}
		return nil
	})
}

// sendWrite makes one WRITE.
func (f *File) sendWrite(ctx context.Context, p []byte, offset uint64) (writeResult, error) {
	var res writeResult
	cmp := f.c.newCompound()
	cmp.putFH(f.open.fh)
	cmp.write(f.open.stateID, offset, p, &res)
	err := f.c.exchange(ctx, cmp)
	return res, err
}
