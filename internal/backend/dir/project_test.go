package dir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/quota"
	"github.com/berth-storage/berth/internal/volume"
)

// kernel is what a file system knows of projects.
type kernel map[uint32]quota.Amount

func (k kernel) get(id uint32) (used, limit quota.Amount, err error) {
	return k[id], quota.Amount{}, nil
}

func take(t *testing.T, p *projectIDs) uint32 {
	t.Helper()
	id, err := p.take()
	if err != nil {
		t.Fatal(err)
	}
	return uint32(id)
}

func TestProjectIDsAreInTheirRange(t *testing.T) {
	p := newProjectIDs("a pool", kernel{}.get)
	p.next = projectsCount - 1
	if first, second := take(t, p), take(t, p); first != firstProject+projectsCount-1 || second != firstProject {
		t.Errorf("got %#x, then %#x", first, second)
	}
}

func TestPoolsBeginAtDifferentProjects(t *testing.T) {
	a, b := take(t, newProjectIDs("a", kernel{}.get)), take(t, newProjectIDs("b", kernel{}.get))
	if a == b {
		t.Errorf("both begin at %d", a)
	}
	if again := take(t, newProjectIDs("a", kernel{}.get)); again != a {
		t.Errorf("one begins at %d, then at %d", a, again)
	}
}

func TestProjectIDsInUseAreNotTaken(t *testing.T) {
	k := kernel{}
	p := newProjectIDs("", k.get)
	p.next = 0
	p.reserve(firstProject)
	k[firstProject+1] = quota.Amount{Inodes: 1}
	if got := take(t, p); got != firstProject+2 {
		t.Errorf("got %#x", got)
	}
	p.giveBack(firstProject)
	p.next = 0
	if got := take(t, p); got != firstProject {
		t.Errorf("an id that was given back is not free: got %#x", got)
	}
	if got := take(t, p); got != firstProject+3 {
		t.Errorf("got %#x", got)
	}
}

func TestNoProjectIDIsLeft(t *testing.T) {
	p := newProjectIDs("", func(uint32) (used, limit quota.Amount, err error) { return quota.Amount{}, quota.Amount{Bytes: 1}, nil })
	p.next, p.count = 0, 1000
	if _, err := p.take(); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got error %v, want %v", err, volume.ErrNoSpace)
	}
}

func TestAProjectThatCannotBeReadIsNotFree(t *testing.T) {
	failed := errors.New("input/output error")
	p := newProjectIDs("", func(uint32) (used, limit quota.Amount, err error) { return used, limit, failed })
	if _, err := p.take(); !errors.Is(err, failed) {
		t.Errorf("got error %v, want %v", err, failed)
	}
}

func TestNamedProjects(t *testing.T) {
	folder := t.TempDir()
	files := []string{filepath.Join(folder, "projects"), filepath.Join(folder, "projid"), filepath.Join(folder, "absent")}
	for i, text := range []string{"10:/srv/a\n11:/srv/b:c\n\n# 12:/srv/c\n", "name: 13\nother:14\nbroken\n:\n99999999999:x\n"} {
		if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := namedProjects(files)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[uint32]bool{10: true, 11: true, 13: true, 14: true}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := namedProjects([]string{folder}); err == nil {
		t.Error("a file that cannot be read is none")
	}
}
