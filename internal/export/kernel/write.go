package kernel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/berth-storage/berth/internal/durable"
	"github.com/berth-storage/berth/internal/export"
)

// head begins our file.
const head = "# Written by Berth: its volumes, for exportfs(8). Changes are undone.\n"

// conflictError says that an export has the file system identity of another one: a
// client would read and write the wrong directory.
type conflictError struct {
	id    export.ID
	dir   string
	fsid  string
	other string
}

func (e *conflictError) Error() string {
	return fmt.Sprintf("%v: %s (export %d) has fsid=%s, which is also that of %s: end the other export", export.ErrRefused, e.dir, e.id, e.fsid, e.other)
}

func (e *conflictError) Unwrap() error { return export.ErrRefused }

// write makes the table say of dirs what is wanted, and our file say all that is
// wanted. With an error that is export.ErrRefused or ErrUnavailable it has changed
// nothing that clients see.
func (s *Server) write(ctx context.Context, dirs map[string]bool) error {
	release, err := s.table.lock(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	defer release()
	if s.memory, err = load(s.table.path(), s.memory); err != nil {
		return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	p, err := s.plan(dirs)
	if err != nil {
		return err
	}
	s.news = s.news.and(p.news) // also if one of the steps below fails in its middle
	// Whatever of ours is in the table is in our file too, after a crash at any of
	// these steps: so it is known as ours when Berth starts again. While it is
	// locked, no exportfs makes the table from the one file and not the other.
	if len(p.gone) > 0 {
		if err := s.table.replace(s.memory, p.gone, nil); err != nil {
			return err
		}
	}
	if err := s.writeFile(); err != nil {
		return err
	}
	if len(p.replaced) > 0 || len(p.added) > 0 {
		drop := slices.SortedFunc(slices.Values(slices.Concat(p.gone, p.replaced)), func(a, b span) int { return a.from - b.from })
		if err := s.table.replace(s.memory, drop, p.added); err != nil {
			return err
		}
	}
	s.seen, err = s.versions()
	return err
}

// and is what n and more tell together.
func (n news) and(more news) news {
	dirs := maps.Clone(n.dirs)
	if dirs == nil {
		dirs = map[string]bool{}
	}
	maps.Copy(dirs, more.dirs)
	return news{dirs: dirs, newClients: n.newClients || more.newClients}
}

// fileState is what is known of our file.
type fileState int

const (
	unread   fileState = iota // not what it says
	outdated                  // it lacks the latest
	right                     // it says what is wanted, if nobody has written to it since
)

// writeFile writes our file if it says anything else than what is wanted.
func (s *Server) writeFile() error {
	now, err := versionOf(s.file)
	if err != nil {
		return err
	}
	if s.ours == right && now != s.seen.file {
		s.ours = unread
	}
	if s.ours == unread && s.fileIsRight() {
		s.ours = right
	}
	if s.ours == right {
		return nil
	}
	// The name of its temporary file does not end in .exports, by which exportfs
	// knows what to read.
	err = durable.WriteFile(s.file, 0o644, func(w io.Writer) error {
		_, err := w.Write(s.text)
		return err
	})
	if err == nil {
		s.ours = right
	}
	return err
}

// fileIsRight reads our file, which an earlier run or somebody else has written.
func (s *Server) fileIsRight() bool {
	text, err := os.ReadFile(s.file)
	return err == nil && bytes.Equal(text, s.text)
}

// setWant says what is wanted.
func (s *Server) setWant(want []wanted) {
	s.want, s.ours = make(map[export.ID]wanted, len(want)), unread
	s.text = append(s.text[:0], head...)
	for _, w := range want {
		s.want[w.ID] = w
		s.text = s.text.with(w.lines)
	}
}

// add says that w is wanted too, in place of what had its id.
func (s *Server) add(w wanted) {
	s.remove(w.ID)
	s.want[w.ID], s.ours = w, outdated
	s.text = s.text.with(w.lines)
}

// remove says that an export is not wanted any more.
func (s *Server) remove(id export.ID) {
	if old, had := s.want[id]; had {
		delete(s.want, id)
		s.text, s.ours = s.text.without(old.Dir), outdated
	}
}

// plan is how the table becomes what it has to be.
type plan struct {
	news     news
	gone     []span // to be taken away, with nothing in their place
	replaced []span // to be taken away when others are added
	added    []line
}

// plan compares the table, which is in memory, with what is wanted of dirs. Lines of other directories
// stay as they are.
func (s *Server) plan(dirs map[string]bool) (plan, error) {
	missing := map[string][]line{} // by directory
	owners := map[string]wanted{}  // by fsid
	for _, id := range slices.Sorted(maps.Keys(s.want)) {
		w := s.want[id]
		if !dirs[w.Dir] {
			continue
		}
		missing[w.Dir] = w.lines
		fsid := fsid(w.FSID)
		if other, taken := owners[fsid]; taken {
			return plan{}, &conflictError{id: id, dir: w.Dir, fsid: fsid, other: other.Dir}
		}
		owners[fsid] = w
	}
	p := plan{news: news{dirs: map[string]bool{}}}
	clients := map[string]bool{}
	for at, e := range s.memory.entries() {
		if !clients[string(e.client)] { // to make a string of the first one only
			clients[string(e.client)] = true
		}
		if !dirs[string(e.path)] { // somebody else's
			if w, same := owners[string(e.fsid())]; same {
				return plan{}, &conflictError{id: w.ID, dir: w.Dir, fsid: fsid(w.FSID), other: string(e.path)}
			}
			s.warnOfRoot(e)
			continue
		}
		dir := string(e.path)
		wants := missing[dir]
		switch same := slices.IndexFunc(wants, e.says); {
		case same >= 0: // as it has to be
			missing[dir] = slices.Delete(slices.Clone(wants), same, same+1)
		case len(wants) > 0:
			// Exported in another way: replaced in one step, so that its clients never
			// find it missing.
			p.news.dirs[dir], p.replaced = true, append(p.replaced, at)
		default:
			p.news.dirs[dir], p.gone = true, append(p.gone, at)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(missing)) {
		for _, l := range missing[dir] {
			p.news.dirs[dir] = true
			p.news.newClients = p.news.newClients || !clients[l.client]
			p.added = append(p.added, l)
		}
	}
	return p, nil
}

// warnOfRoot says once that somebody exports a root of NFSv4.
func (s *Server) warnOfRoot(e entry) {
	if id := string(e.fsid()); s.warned || id != "0" && id != "root" {
		return
	}
	s.warned = true
	s.o.Log.Warn("an export of this host is the root of NFSv4 (fsid=0): NFSv4 clients find volumes only below it, and by a path that begins there",
		"export", string(e.path))
}
