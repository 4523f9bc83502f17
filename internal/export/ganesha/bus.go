package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/berth-storage/berth/internal/export"
)

const (
	busName         = "org.ganesha.nfsd"
	exportManager   = "org.ganesha.nfsd.exportmgr"
	exportObject    = dbus.ObjectPath("/org/ganesha/nfsd/ExportMgr")
	invalidArgument = "org.freedesktop.DBus.Error.InvalidArgs"
	invalidFile     = "org.freedesktop.DBus.Error.InvalidFileContent"
	callTimeout     = 30 * time.Second
)

// bus is a connection to one run of Ganesha.
type bus struct {
	conn   *dbus.Conn
	folder string       // for files that Ganesha reads
	log    *recentLines // nil if it is not known what Ganesha logs
	shared bool         // with others, who have exports of their own
}

func dialBus(ctx context.Context, socket, folder string, log *recentLines) (*bus, error) {
	conn, err := dbus.Connect("unix:path=" + socket)
	if err != nil {
		return nil, err
	}
	owned, err := isOnBus(ctx, conn)
	if err == nil && !owned {
		err = errors.New("ganesha is not on the bus yet")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &bus{conn: conn, folder: folder, log: log}, nil
}

// isOnBus says whether a Ganesha is.
func isOnBus(ctx context.Context, conn *dbus.Conn) (owned bool, err error) {
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&owned)
	return owned, err
}

func (b *bus) close() error { return b.conn.Close() }

func (b *bus) call(ctx context.Context, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.conn.Object(busName, exportObject).CallWithContext(ctx, exportManager+"."+method, 0, args...)
}

// refused says whether Ganesha itself said no. Other errors come from the bus or
// the connection, for instance when Ganesha ends in the middle of a call.
func refused(err error) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && (e.Name == invalidArgument || e.Name == invalidFile)
}

// add adds an export that is not there yet. Ganesha reads it from a file.
func (b *bus) add(ctx context.Context, e export.Export) error {
	if b.shared {
		switch dir, has, err := b.dirOf(ctx, e.ID); {
		case err != nil:
			return err
		case has && dir == e.Dir: // it came with the configuration just now
			return b.update(ctx, e)
		case has:
			return fmt.Errorf("%w: %s: its export id %d is that of %s, which is not Berth's: give that one another Export_Id",
				export.ErrRefused, e.Dir, e.ID, dir)
		}
	}
	return b.fromFile(ctx, "AddExport", e)
}

// update changes what Ganesha can change of an export that is there.
func (b *bus) update(ctx context.Context, e export.Export) error {
	return b.fromFile(ctx, "UpdateExport", e)
}

func (b *bus) fromFile(ctx context.Context, method string, e export.Export) error {
	block, err := exportBlock(e, b.shared)
	if err != nil {
		return err
	}
	file := filepath.Join(b.folder, fmt.Sprintf("export-%d.conf", e.ID))
	if err := os.WriteFile(file, block, 0o600); err != nil {
		return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	defer os.Remove(file)
	mark := b.log.mark()
	var answer string
	err = b.call(ctx, method, file, fmt.Sprintf("EXPORT(Export_Id=%d)", e.ID)).Store(&answer)
	switch {
	case refused(err):
		// The answer says no more than "InvalidFileContent"; the log has the cause.
		return fmt.Errorf("%w: %s of %s: %w: %s", export.ErrRefused, method, e.Dir, err, b.log.since(mark))
	case err != nil:
		return fmt.Errorf("%s of %s: %w", method, e.Dir, err)
	case method == "AddExport" && !strings.HasPrefix(answer, "1 exports added"), strings.Contains(answer, "Errors found"):
		// Also of success it is to be read what it was: nothing may have been added,
		// or the export without what was not understood.
		return errors.Join(fmt.Errorf("%w: %s of %s: %s", export.ErrRefused, method, e.Dir, answer), b.remove(ctx, e))
	}
	return nil
}

// remove removes an export, or finds that it is not there.
func (b *bus) remove(ctx context.Context, e export.Export) error {
	if b.shared {
		dir, has, err := b.dirOf(ctx, e.ID)
		if err != nil || !has || dir != e.Dir { // gone, and its id is somebody else's by now
			return err
		}
	}
	mark := b.log.mark()
	err := b.call(ctx, "RemoveExport", uint16(e.ID)).Err
	if !refused(err) {
		return err
	}
	// The same error stands for "there is no such export" and for "it cannot be
	// removed": ask for it.
	_, has, hasErr := b.dirOf(ctx, e.ID)
	if hasErr == nil && !has {
		return nil
	}
	return errors.Join(fmt.Errorf("RemoveExport of %d: %w: %s", e.ID, err, b.log.since(mark)), hasErr)
}

// dirOf is the directory of an export that Ganesha has.
func (b *bus) dirOf(ctx context.Context, id export.ID) (dir string, has bool, err error) {
	call := b.call(ctx, "DisplayExport", uint16(id))
	if refused(call.Err) {
		return "", false, nil
	}
	if call.Err != nil {
		return "", false, call.Err
	}
	if len(call.Body) < 2 {
		return "", false, fmt.Errorf("DisplayExport: answer of %d values", len(call.Body))
	}
	dir, ok := call.Body[1].(string)
	if !ok {
		return "", false, fmt.Errorf("DisplayExport: directory of type %T", call.Body[1])
	}
	return dir, true, nil
}

// exports are the directories that Ganesha exports, by id, without the root of its
// pseudo file system, which is export 0.
func (b *bus) exports(ctx context.Context) (map[export.ID]string, error) {
	call := b.call(ctx, "ShowExports")
	if call.Err != nil {
		return nil, fmt.Errorf("ShowExports: %w", call.Err)
	}
	if len(call.Body) < 2 {
		return nil, fmt.Errorf("ShowExports: answer of %d values", len(call.Body))
	}
	exports, ok := call.Body[1].([][]any)
	if !ok {
		return nil, fmt.Errorf("ShowExports: answer of type %T", call.Body[1])
	}
	dirs := make(map[export.ID]string, len(exports))
	for _, e := range exports {
		if len(e) < 2 {
			return nil, fmt.Errorf("ShowExports: an export of %d values", len(e))
		}
		id, isID := e[0].(uint16)
		dir, isDir := e[1].(string)
		if !isID || !isDir {
			return nil, fmt.Errorf("ShowExports: an export of types %T and %T", e[0], e[1])
		}
		if id != 0 {
			dirs[export.ID(id)] = dir
		}
	}
	return dirs, nil
}
