package volumetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

const (
	// modelVolumes is how many volumes Model has at once, at the most; of snapshots as many.
	modelVolumes = 12
	modelGrowth  = 1 << 20 // bytes
)

// model is what a pool should hold.
type model struct {
	b         volume.Backend
	random    *rand.Rand
	made      int
	live      map[string]volume.Volume // volumes and snapshots, by name
	content   map[string]string        // of each live volume
	snapshots map[string]string        // what each live snapshot holds
	from      map[string]string        // what a volume or snapshot was made of
	waiting   map[string]bool          // deleted ones that have clones or snapshots
}

// Model makes, clones, grows, writes to and deletes volumes of b at random, and takes, restores and
// deletes snapshots if b can, in so many steps, and wants
// after each that there is what there should be, with the content that it should
// have. Then it deletes everything, in any order. The seed says which steps these are. b is a volume.Cloner, and its
// volumes are mounted on this host.
func Model(t *testing.T, b volume.Backend, seed uint64, steps int) {
	m := &model{
		b: b, random: rand.New(rand.NewPCG(seed, 0)), live: map[string]volume.Volume{}, content: map[string]string{},
		snapshots: map[string]string{}, from: map[string]string{}, waiting: map[string]bool{},
	}
	for step := range steps {
		m.step(t)
		m.check(t)
		if t.Failed() {
			t.Fatalf("step %d of seed %d", step, seed)
		}
	}
	for len(m.content)+len(m.snapshots) > 0 {
		m.delete(t, m.any(m.content, m.snapshots))
	}
	for tried := -1; tried != len(m.waiting); { // as volume.Manager does now and then
		tried = len(m.waiting)
		for _, name := range slices.Sorted(maps.Keys(m.waiting)) {
			m.purge(t, name)
		}
	}
	m.check(t)
	if len(m.waiting) > 0 {
		t.Errorf("of %v nothing is freed, and no clone is left", slices.Sorted(maps.Keys(m.waiting)))
	}
}

func (m *model) step(t *testing.T) {
	_, takesSnapshots := m.b.(volume.Snapshotter)
	kind := m.random.IntN(20)
	if kind >= 13 && !takesSnapshots {
		kind = m.random.IntN(13)
	}
	room := len(m.content) < modelVolumes
	switch {
	case len(m.content) == 0, kind < 2 && room:
		s := Spec(t, m.name("pvc"))
		m.live[s.Name.String()] = create(t, m.b, s)
		m.write(t, s.Name.String(), s.Name.String())
	case kind < 5 && room:
		m.clone(t)
	case kind < 8:
		name := m.any(m.content)
		m.made++
		m.write(t, name, fmt.Sprint(name, " ", m.made))
	case kind < 10:
		m.grow(t)
	case kind < 13:
		m.delete(t, m.any(m.content))
	case kind < 16 && len(m.snapshots) < modelVolumes:
		m.snapshot(t)
	case kind < 18 && room && len(m.snapshots) > 0:
		m.restore(t)
	case len(m.snapshots) > 0:
		m.delete(t, m.any(m.snapshots))
	default:
		m.delete(t, m.any(m.content))
	}
}

func (m *model) name(kind string) string {
	m.made++
	return fmt.Sprint(kind, "-", m.made)
}

// any gives one that is in one of all.
func (m *model) any(all ...map[string]string) string {
	var names []string
	for _, in := range all {
		names = append(names, slices.Sorted(maps.Keys(in))...)
	}
	return names[m.random.IntN(len(names))]
}

func (m *model) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.live[name].Dir, "content"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.content[name] = text
}

func (m *model) grow(t *testing.T) {
	t.Helper()
	name := m.any(m.content)
	v := get(t, m.b, Spec(t, name).Name)
	v.Size += modelGrowth
	v, err := m.b.Update(t.Context(), v)
	if err != nil {
		t.Fatalf("growing %s: %v", name, err)
	}
	m.live[name] = v
}

func (m *model) clone(t *testing.T) {
	t.Helper()
	source, name := m.any(m.content), m.name("pvc")
	m.cloned(t, CloneSpec(t, name, source), source, m.content[source])
}

func (m *model) restore(t *testing.T) {
	t.Helper()
	snapshot, name := m.any(m.snapshots), m.name("pvc")
	m.cloned(t, RestoreSpec(t, name, snapshot, m.from[snapshot]), snapshot, m.snapshots[snapshot])
}

// cloned makes the volume of s, which is now and then bigger than its source.
func (m *model) cloned(t *testing.T, s volume.Spec, source, content string) {
	t.Helper()
	s.Size = m.live[source].Size + int64(m.random.IntN(2))*modelGrowth
	v, err := m.b.(cloner).Clone(t.Context(), s, nil)
	if err != nil {
		t.Fatalf("Clone(%s) of %s: %v", s.Name, source, err)
	}
	name := s.Name.String()
	m.live[name], m.content[name], m.from[name] = v, content, source
}

func (m *model) snapshot(t *testing.T) {
	t.Helper()
	source, name := m.any(m.content), m.name("snap")
	m.live[name] = snapshotOf(t, m.b.(snapshotter), name, source)
	m.snapshots[name], m.from[name] = m.content[source], source
}

// delete deletes a volume or snapshot, and with it those that waited for it, as volume.Manager does.
func (m *model) delete(t *testing.T, name string) {
	t.Helper()
	discard(t, m.b, name)
	delete(m.content, name)
	delete(m.snapshots, name)
	delete(m.live, name)
	m.waiting[name] = true
	for m.waiting[name] && m.purge(t, name) {
		name = m.from[name]
	}
}

// purge says whether what is deleted is freed. A snapshot may go by itself with the last that needs it.
func (m *model) purge(t *testing.T, name string) bool {
	t.Helper()
	err := m.b.Purge(t.Context(), Spec(t, name).Name)
	if errors.Is(err, volume.ErrCloned) {
		return false
	}
	if err != nil && (!errors.Is(err, volume.ErrNotFound) || !m.isSnapshot(name)) {
		t.Fatal(err)
	}
	delete(m.waiting, name)
	return true
}

func (m *model) isSnapshot(name string) bool { return strings.HasPrefix(name, "snap-") }

// check compares what there is with the model. What snapshots hold is seen when they are restored.
func (m *model) check(t *testing.T) {
	t.Helper()
	for name := range m.waiting {
		if !m.isSnapshot(name) {
			continue
		}
		if _, err := m.b.Get(t.Context(), Spec(t, name).Name); errors.Is(err, volume.ErrNotFound) {
			delete(m.waiting, name)
		}
	}
	wantNames(t, m.b, slices.Concat(slices.Collect(maps.Keys(m.live)), slices.Collect(maps.Keys(m.waiting)))...)
	for name, want := range m.content {
		if text, err := os.ReadFile(filepath.Join(m.live[name].Dir, "content")); err != nil || string(text) != want {
			t.Errorf("%s holds %q, want %q; %v", name, text, want, err)
		}
	}
}
