package dir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-storage/berth/internal/volume"
)

const (
	recordSuffix = ".json"
	// A record is marked as discarded by its name: a rename needs no space, so that
	// volumes can be deleted when the disk is full.
	discardedSuffix = ".discarded"
	// One with this name is that of a discarded volume whose path may be another
	// volume's by now.
	trashedSuffix = ".trashed"
	tempSuffix    = ".tmp"
	recordVersion = 1
)

var recordSuffixes = []string{recordSuffix, discardedSuffix, trashedSuffix}

// record is the form of a record on disk.
type record struct {
	Version int `json:"version"`
	volume.Volume
}

// recordStore is the folder of records.
type recordStore struct {
	dir    *os.Root
	folder string // see Folder; it holds dir
	onNFS  bool
}

func openRecords(private *os.Root, folder string) (recordStore, error) {
	dir, err := private.OpenRoot("volumes")
	if err != nil {
		return recordStore{}, fmt.Errorf("records: %w", err)
	}
	return recordStore{dir: dir, folder: folder}, nil
}

// clean removes what writes that were cut off have left. Nobody may be writing.
func (s recordStore) clean() error {
	files, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("records: %w", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), tempSuffix) {
			if err := s.dir.Remove(f.Name()); err != nil {
				return fmt.Errorf("records: %w", err)
			}
		}
	}
	return nil
}

func (s recordStore) Close() error { return s.dir.Close() }

func (s recordStore) names() ([]string, error) {
	files, err := fs.ReadDir(s.dir.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("%w: records: %w", volume.ErrUnknown, err)
	}
	var names []string
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), tempSuffix) {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// recordName is the volume that the record in file is of.
func recordName(file string) (volume.Name, error) {
	for _, suffix := range recordSuffixes {
		if base, ok := strings.CutSuffix(file, suffix); ok {
			return volume.ParseName(base)
		}
	}
	return volume.Name{}, fmt.Errorf("%w: %q in the folder of records is not a record", volume.ErrForeign, file)
}

// read gives the record of n and, if it is discarded, the state that it had before; that
// is StateDiscarded, too, of one that has left its path for sure.
func (s recordStore) read(n volume.Name) (v volume.Volume, before volume.State, err error) {
	var text []byte
	var suffix string
	for _, suffix = range recordSuffixes { // in the order in which a record gets them
		if text, err = s.dir.ReadFile(n.String() + suffix); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return volume.Volume{}, "", fmt.Errorf("%w: %s", volume.ErrNotFound, n)
	}
	if err != nil {
		return volume.Volume{}, "", fmt.Errorf("record of volume %s: %w", n, readError(s.onNFS, err))
	}
	v, err = parseRecord(s.folder, n, text)
	before = v.State
	if err == nil && suffix != recordSuffix {
		v.State = volume.StateDiscarded
	}
	if suffix == trashedSuffix {
		before = volume.StateDiscarded
	}
	return v, before, err
}

// readError gives the error of reading a record its meaning. On a disk it is that file which is
// damaged. A share may have ceased to answer, and answer again: the record is as good as ever.
func readError(onNFS bool, err error) error {
	if !onNFS || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: %w", volume.ErrUnknown, err)
}

// parseRecord reads the record of n in folder. One that was damaged or written by hand may
// say anything.
func parseRecord(folder string, n volume.Name, text []byte) (volume.Volume, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return volume.Volume{}, fmt.Errorf("record of volume %s is damaged: %w", n, err)
	}
	if r.Version != recordVersion {
		return volume.Volume{}, fmt.Errorf("record of volume %s has version %d, this program knows %d", n, r.Version, recordVersion)
	}
	if r.Name != n {
		return volume.Volume{}, fmt.Errorf("%w: the record of volume %s says that it is %s's", volume.ErrForeign, n, r.Name)
	}
	if (r.Path == volume.RelPath{}) {
		return volume.Volume{}, fmt.Errorf("record of volume %s has no path", n)
	}
	archived := false
	switch r.State {
	case volume.StateSnapshot:
		if !isSnapshot(r.Volume) {
			return volume.Volume{}, fmt.Errorf("record of volume %s, a snapshot, does not say of what", n)
		}
	case volume.StateCreating, volume.StateReady, volume.StateRetained:
	case volume.StateArchiving, volume.StateArchived:
		archived = true
	default:
		return volume.Volume{}, fmt.Errorf("record of volume %s has the unknown state %q", n, r.State)
	}
	if isSnapshot(r.Volume) && r.State != volume.StateSnapshot && r.State != volume.StateCreating {
		return volume.Volume{}, fmt.Errorf("record of snapshot %s has the state %q, which only a volume has", n, r.State)
	}
	if r.ArchivePath == archivePath(Folder(Unnamed), r.Volume) {
		r.ArchivePath = archivePath(folder, r.Volume) // see inherit
	}
	_, err := volume.ParseRelPath(r.ArchivePath)
	if valid := err == nil || r.ArchivePath == archivePath(folder, r.Volume); archived != (r.ArchivePath != "") || archived && !valid {
		return volume.Volume{}, fmt.Errorf("record of volume %s, which is %s, has the archive path %q", n, r.State, r.ArchivePath)
	}
	return r.Volume, nil
}

func (s recordStore) write(v volume.Volume) error {
	text, err := json.MarshalIndent(record{recordVersion, v}, "", "  ")
	if err != nil {
		return fmt.Errorf("record of volume %s: %w", v.Name, err)
	}
	if err := writeFile(s.dir, s.onNFS, v.Name.String()+recordSuffix, append(text, '\n')); err != nil {
		return fmt.Errorf("record of volume %s: %w", v.Name, err)
	}
	return nil
}

// discard marks the record of n as that of a discarded volume.
func (s recordStore) discard(n volume.Name) error { return s.rename(n, recordSuffix, discardedSuffix) }

// trashed marks the record of n, which is discarded, as that of one that has left its path.
func (s recordStore) trashed(n volume.Name) error { return s.rename(n, discardedSuffix, trashedSuffix) }

func (s recordStore) rename(n volume.Name, from, to string) error {
	err := s.dir.Rename(n.String()+from, n.String()+to)
	if err == nil {
		err = syncFolder(s.dir)
	}
	if err != nil {
		return fmt.Errorf("record of volume %s: %w", n, err)
	}
	return nil
}

func (s recordStore) remove(n volume.Name, suffix string) error {
	if err := s.dir.Remove(n.String() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of volume %s: %w", n, err)
	}
	return nil
}

// writeFile replaces a file so that after a crash it is the old or the new one,
// whole: temporary file, fsync, rename, fsync of the folder. On NFS it passes by the
// cache: waiting for a cached page that cannot be written no signal ends, not even the
// last one, and so the process would not end before its server is back.
func writeFile(dir *os.Root, onNFS bool, name string, text []byte) error {
	temp, flags := name+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC
	if onNFS {
		flags |= unix.O_DIRECT // which there takes any size, see open(2)
	}
	f, err := dir.OpenFile(temp, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, dir.Remove(temp))
	}
	if err := dir.Rename(temp, name); err != nil {
		return errors.Join(err, dir.Remove(temp))
	}
	return syncFolder(dir)
}

func syncFolder(dir *os.Root) error {
	folder, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
