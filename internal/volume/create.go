package volume

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/berth-storage/berth/internal/export"
)

// Create makes the volume of s and exports it; s.Export is filled in here. It
// returns the volume ready and reachable. A run that was cut off leaves a
// record, and the next call for the same claim goes on from there. Errors are
// those of Backend.Create, ErrNoSpace, and ErrBusy while the server is away; ErrExists
// if its path is another volume's, or inside of one or around one; ErrForeign if what
// it shall be restored from, or a clone of, is another namespace's, and ErrNotFound if it is
// not there, or is being deleted. ErrPending if everything has to be copied for a clone, which
// goes on in the background: call it again.
func (m *Manager) Create(ctx context.Context, s Spec) (v Volume, err error) {
	defer m.observe("create", &err)()
	if err := s.Validate(); err != nil {
		return Volume{}, err
	}
	if err := m.supports(s); err != nil {
		return Volume{}, err
	}
	if s.IsCopy() || m.work.has(s.Name) {
		return m.work.do(ctx, s.Name, s.Claim.Namespace, s.Claim, func(ctx context.Context, p *Progress) (Volume, error) { return m.create(ctx, s, p) })
	}
	return m.create(ctx, s, nil)
}

// create tells p how far it has got, if anything has to be copied.
func (m *Manager) create(ctx context.Context, s Spec, p *Progress) (v Volume, err error) {
	unlock, err := m.names.lock(ctx, s.Name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()

	v, err = m.get(ctx, s.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		v, err = m.createNew(ctx, s, p)
	case err != nil: // an unreadable record is not a missing one
	case !v.Is(s):
		err = fmt.Errorf("%w: volume %s belongs to claim %s (uid %s)", ErrExists, s.Name, v.Claim, v.Claim.UID)
	case v.State == StateDiscarded:
		err = fmt.Errorf("%w: volume %s is being deleted", ErrBusy, s.Name)
	case v.Ended.IsZero():
		v, err = m.goOn(ctx, s, v, p)
	default:
		err = fmt.Errorf("%w: volume %s is %s since its claim was deleted; restore it to a new claim", ErrExists, s.Name, v.State)
	}
	if err != nil {
		return Volume{}, err
	}
	if err := m.mount(ctx, v); err != nil {
		return Volume{}, err
	}
	// A crash from here on leaves a ready volume, which Recover exports at the
	// next start; the retry for the claim publishes again, which changes nothing.
	if err := m.pool.Server.Publish(ctx, v.AsExport(m.pool.Clients)); err != nil {
		return Volume{}, fmt.Errorf("exporting volume %s: %w", s.Name, serverError(err))
	}
	return v, nil
}

// supports says whether the pool can do what s asks for.
func (m *Manager) supports(s Spec) error {
	if what := m.lacks(s); what != "" {
		return fmt.Errorf("%w: volume %s: pool %s %s", ErrUnsupported, s.Name, m.pool.Name, what)
	}
	if s.Existing == ExistingShare && m.pool.IDs != nil {
		// Two exports of one path are one too many for every server.
		return fmt.Errorf("%w: volume %s: claims can share a directory only in a pool on a share of another NFS server", ErrUnsupported, s.Name)
	}
	if m.native == nil {
		return nil
	}
	if err := m.native.CheckSettings(s.Settings); err != nil {
		return fmt.Errorf("volume %s: %w", s.Name, err)
	}
	return nil
}

// lacks says which ability s asks for that the backend does not have.
func (m *Manager) lacks(s Spec) string {
	switch {
	case s.copied() && m.filler == nil:
		return "takes no copies from other pools: use a class of pool " + s.From.Pool
	case s.clone() != Name{} && m.cloner == nil:
		return "cannot clone volumes"
	case !s.Settings.isZero() && m.native == nil:
		return "knows no properties, reservations, shares and snapshots of single volumes"
	case m.archive != nil:
		return ""
	case s.OnDelete == OnDeleteArchive:
		return "keeps no archives"
	case s.From != nil && !s.IsCopy():
		return "restores no archives"
	case s.Existing != "" && s.Existing != ExistingRefuse:
		return "takes over no directory that is there already"
	}
	return ""
}

// goOn finishes v if a run that was cut off has begun it, with the ids that it names.
func (m *Manager) goOn(ctx context.Context, s Spec, v Volume, p *Progress) (Volume, error) {
	if n := s.clone(); n != (Name{}) && !v.CopyOf(s) {
		return Volume{}, fmt.Errorf("%w: volume %s was begun before its claim asked for a clone of %s, and is none: delete the claim and make it again", ErrExists, s.Name, n)
	}
	if s.copied() && !v.CopyOf(s) {
		return Volume{}, fmt.Errorf("%w: volume %s was begun before its claim asked for a copy of %s of pool %s, and is none: delete the claim and make it again", ErrExists, s.Name, s.From.Volume, s.From.Pool)
	}
	if v.State == StateReady {
		return v, nil
	}
	s.Export, s.Owner = v.Export, v.Owner
	s.From = nil
	if v.CopiedFrom != (Origin{}) {
		s.From = v.CopiedFrom.Source()
		c, _, closed, err := m.content(ctx, s)
		if err != nil {
			return Volume{}, err
		}
		defer closed()
		made, err := m.filler.Fill(ctx, s, c, p)
		if err != nil && m.lost(ctx, s.Name) {
			m.forget(v)
			m.pool.IDs.Return(v.Export.ID)
		}
		return made, err
	}
	if v.ClonedFrom != (Name{}) {
		s.From = &Source{Volume: v.ClonedFrom, Snapshot: v.FromSnapshot}
		_, unpin, err := m.original(ctx, s)
		switch {
		case err == nil:
			defer unpin()
		case !errors.Is(err, ErrNotFound): // it may be gone by now, and not needed any more
			return Volume{}, err
		}
	}
	var source Volume
	if v.RestoredFrom != (Name{}) {
		s.From = &Source{Archive: v.RestoredFrom}
		var err error
		switch source, err = m.get(ctx, v.RestoredFrom); {
		case errors.Is(err, ErrNotFound): // consumed before
			m.paths.remove(Volume{Name: v.RestoredFrom})
		case err != nil:
			return Volume{}, err
		case source.Ended.IsZero(): // consumed before, and its claim came again
			source = Volume{}
		}
	}
	return m.make(ctx, s, source, p)
}

// make has the backend make the volume. If it gets the content of source, which may be
// the zero Volume, the record of that is gone then.
func (m *Manager) make(ctx context.Context, s Spec, source Volume, p *Progress) (Volume, error) {
	if s.clone() != (Name{}) {
		return m.cloner.Clone(ctx, s, p)
	}
	if s.Existing == ExistingShare || s.From != nil {
		unlock, err := m.handover.lock(ctx, struct{}{})
		if err != nil {
			return Volume{}, err
		}
		defer unlock()
	}
	v, err := m.pool.Backend.Create(ctx, s)
	if err != nil {
		return Volume{}, err
	}
	if v.Owner.GID != s.Owner.GID { // what was there has its own
		m.gids.use(v.Owner.GID)
		m.gids.free(s.Owner.GID)
	}
	if source.Name != (Name{}) {
		m.forget(source)
		err = m.pool.IDs.Free(source.Export.ID)
	}
	return v, err
}

func (m *Manager) createNew(ctx context.Context, s Spec, p *Progress) (v Volume, err error) {
	source, err := m.source(ctx, &s)
	if err != nil {
		return Volume{}, err
	}
	had := source.Owner
	if s.clone() != (Name{}) {
		original, unpin, err := m.original(ctx, s)
		if err != nil {
			return Volume{}, err
		}
		defer unpin()
		had = original.Owner
	}
	var content Content
	if s.copied() {
		var closed func()
		if content, had.GID, closed, err = m.content(ctx, s); err != nil {
			return Volume{}, err
		}
		defer closed()
	}
	if !m.tally.add(s.Name, s.Size, m.pool.MaxVolumes) {
		return Volume{}, fmt.Errorf("%w: volume %s: pool %s has %d volumes already and may have no more", ErrNoSpace, s.Name, m.pool.Name, m.pool.MaxVolumes)
	}
	if m.unreadable > 0 && s.From == nil && len(m.paths.at(s.Path)) == 0 {
		s.Existing = ExistingRefuse // what lies there may be the volume of a record that cannot be read
	}
	if s.Owner.GID, err = m.group(s, had.GID); err != nil {
		m.tally.remove(s.Name)
		return Volume{}, err
	}
	recorded := false
	defer func() {
		if !recorded {
			m.forget(New(s, m.now()))
		}
	}()
	if err := m.paths.add(New(s, m.now()), s.Path); err != nil {
		return Volume{}, err
	}
	if m.meter != nil && (s.From == nil || s.copied()) { // what is moved takes no more room than before
		room, err := m.meter.Capacity(ctx)
		if err != nil {
			return Volume{}, fmt.Errorf("measuring pool %s: %w", m.pool.Name, err)
		}
		if uint64(s.Size) > room.Available {
			return Volume{}, fmt.Errorf("%w: volume %s needs %d bytes, pool %s has %d available",
				ErrNoSpace, s.Name, s.Size, m.pool.Name, room.Available)
		}
	}
	id, err := m.pool.IDs.Take()
	if err != nil {
		return Volume{}, fmt.Errorf("%w: volume %s: %w", ErrNoSpace, s.Name, err)
	}
	s.Export.ID = id
	s.Export.FSID = export.NewFSID(m.pool.Name + "/" + s.Name.String())
	s.Export.Path = path.Join(m.pool.ExportPath, s.Path.String())
	recorded = true
	if s.copied() {
		v, err = m.filler.Fill(ctx, s, content, p)
	} else {
		v, err = m.make(ctx, s, source, p)
	}
	if err != nil {
		if m.lost(ctx, s.Name) {
			m.pool.IDs.Return(id)
			recorded = false
		}
		return Volume{}, err
	}
	return v, nil
}

// lost says whether there is no record of n, which could not be made: only then is its export id free again. If that
// cannot be told, it stays taken until the next start reads the records.
func (m *Manager) lost(ctx context.Context, n Name) bool {
	_, err := m.pool.Backend.Get(context.WithoutCancel(ctx), n)
	return errors.Is(err, ErrNotFound)
}

// group gives the group of the volume of s, whose use is counted then. What will be in the
// volume has the group had.
func (m *Manager) group(s Spec, had uint32) (uint32, error) {
	gid := s.Owner.GID
	switch {
	case s.GIDs == GIDRange{}:
	case s.GIDs.First <= had && had <= s.GIDs.Last:
		gid = had
	default:
		gid, ok := m.gids.take(s.GIDs)
		if !ok {
			return 0, fmt.Errorf("%w: volume %s: all group ids from %d to %d are given out", ErrNoSpace, s.Name, s.GIDs.First, s.GIDs.Last)
		}
		return gid, nil
	}
	m.gids.use(gid)
	return gid, nil
}

// source gives the volume whose content s asks for, or that Existing lets it have: one
// at its path that nobody has any more. The zero Volume if there is none.
func (m *Manager) source(ctx context.Context, s *Spec) (Volume, error) {
	if s.From == nil && s.Existing != "" && s.Existing != ExistingRefuse {
		for _, v := range m.paths.at(s.Path) {
			if v.Name == s.Name || !v.mayBecome(*s) || v.Shared && s.Existing == ExistingShare {
				continue
			}
			abandoned, err := m.abandoned(ctx, v.Name)
			if err != nil {
				return Volume{}, fmt.Errorf("volume %s: whether anybody has volume %s, which lies at its path: %w", s.Name, v.Name, err)
			}
			if abandoned {
				s.From = &Source{Archive: v.Name}
			}
		}
	}
	if s.From == nil || s.From.Archive == (Name{}) {
		return Volume{}, nil
	}
	v, err := m.get(ctx, s.From.Archive)
	switch {
	case err != nil:
		return Volume{}, fmt.Errorf("volume %s: what it shall be restored from: %w", s.Name, err)
	case !v.mayBecome(*s):
		return Volume{}, fmt.Errorf("%w: volume %s cannot be restored from %s, which was that of claim %s: only a claim of the same namespace and cluster gets it",
			ErrForeign, s.Name, v.Name, v.Claim)
	case v.State == StateArchiving:
		return Volume{}, fmt.Errorf("%w: volume %s: %s, from which it shall be restored, is not archived yet", ErrBusy, s.Name, v.Name)
	case v.State != StateArchived && v.State != StateRetained:
		return Volume{}, fmt.Errorf("%w: volume %s: %s, from which it shall be restored, is %s, neither archived nor retained", ErrNotFound, s.Name, v.Name, v.State)
	}
	return v, nil
}

// mayBecome says whether the content of v may be that of s, once nobody has it.
func (v Volume) mayBecome(s Spec) bool {
	return v.Claim.Namespace == s.Claim.Namespace && (v.Cluster == s.Cluster || v.Cluster == "")
}

// AskWanted gives Create a way to ask whether anybody still has a volume that lies where
// a new one with ExistingReuse is to be. Without it, or if it gives an error, a
// volume counts as somebody's as long as it is not deleted by Delete.
func (m *Manager) AskWanted(wanted Wanted) {
	m.wantedMu.Lock()
	defer m.wantedMu.Unlock()
	m.wanted = wanted
}

// abandoned says whether n is retained. One whose PersistentVolume was removed by hand,
// so that nobody has called Delete, becomes that, if it was to be retained.
func (m *Manager) abandoned(ctx context.Context, n Name) (bool, error) {
	m.wantedMu.Lock()
	wanted := m.wanted
	m.wantedMu.Unlock()
	// No operation on a volume that has a record waits for another one's name.
	unlock, err := m.names.lock(ctx, n)
	if err != nil {
		return false, err
	}
	defer unlock()
	v, err := m.get(ctx, n)
	if errors.Is(err, ErrNotFound) {
		return false, nil // just now; the next call finds its place free
	}
	if err != nil || v.State == StateRetained {
		return err == nil, err
	}
	if v.State != StateReady || !v.Published || v.Reclaim != ReclaimRetain || wanted == nil {
		return false, nil
	}
	if keep, err := wanted(ctx, v); keep || err != nil {
		return false, err
	}
	m.pool.Log.Info("a volume has no claim and no PersistentVolume any more, so another claim gets what it holds", "volume", n, "claim", v.Claim)
	return true, m.retain(ctx, v)
}

// count counts a volume that has a record and is not discarded.
func (m *Manager) count(v Volume) {
	if v.Ended.IsZero() && v.SnapshotOf == (Name{}) {
		m.tally.add(v.Name, v.Size, 0)
	}
	m.gids.use(v.Owner.GID)
	// Where a discarded one was there may be the next one already.
	if err := m.paths.hold(v); err != nil && v.State != StateDiscarded {
		m.pool.Log.Error("two volumes lie in each other; neither is deleted as long as the other one is there", "err", err)
	}
}

// forget is the end of that.
func (m *Manager) forget(v Volume) {
	m.tally.remove(v.Name)
	m.gids.free(v.Owner.GID)
	m.paths.remove(v)
}

// places are where v lies among other volumes.
func (v Volume) places() []RelPath {
	var all []RelPath
	if v.SnapshotOf != (Name{}) {
		return nil // in a folder of Berth's own
	}
	if v.State != StateArchived {
		all = append(all, v.Path)
	}
	// An archive in the backend's own folder is in nobody's way.
	if p, err := ParseRelPath(v.ArchivePath); err == nil {
		all = append(all, p)
	}
	return all
}
