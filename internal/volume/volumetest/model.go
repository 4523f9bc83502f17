package volumetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/berth-storage/berth/internal/volume"
)

// modelVolumes is how many volumes Model has at once, at the most.
const modelVolumes = 12

// model is what a pool should hold.
type model struct {
	b       volume.Backend
	random  *rand.Rand
	made    int
	live    map[string]volume.Volume
	content map[string]string // of each live volume
	from    map[string]string // what a volume was cloned from
	waiting map[string]bool   // deleted ones that have clones
}

// Model makes, clones, writes to and deletes volumes of b at random, in so many steps, and wants
// after each that there is what there should be, with the content that it should
// have. Then it deletes everything, in any order. The seed says which steps these are. b is a volume.Cloner, and its
// volumes are mounted on this host.
func Model(t *testing.T, b volume.Backend, seed uint64, steps int) {
	m := &model{b: b, random: rand.New(rand.NewPCG(seed, 0)), live: map[string]volume.Volume{}, content: map[string]string{}, from: map[string]string{}, waiting: map[string]bool{}}
	for step := range steps {
		m.step(t)
		m.check(t)
		if t.Failed() {
			t.Fatalf("step %d of seed %d", step, seed)
		}
	}
	for len(m.content) > 0 {
		m.delete(t)
	}
	m.check(t)
	if len(m.waiting) > 0 {
		t.Errorf("of %v nothing is freed, and no clone is left", slices.Sorted(maps.Keys(m.waiting)))
	}
}

func (m *model) step(t *testing.T) {
	switch kind := m.random.IntN(10); {
	case len(m.content) == 0, kind < 2 && len(m.content) < modelVolumes:
		s := Spec(t, m.name())
		m.live[s.Name.String()] = create(t, m.b, s)
		m.write(t, s.Name.String(), s.Name.String())
	case kind < 6 && len(m.content) < modelVolumes:
		m.clone(t)
	case kind < 8:
		name := m.any()
		m.made++
		m.write(t, name, fmt.Sprint(name, " ", m.made))
	default:
		m.delete(t)
	}
}

func (m *model) name() string {
	m.made++
	return fmt.Sprint("pvc-", m.made)
}

func (m *model) any() string {
	names := slices.Sorted(maps.Keys(m.content))
	return names[m.random.IntN(len(names))]
}

func (m *model) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.live[name].Dir, "content"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.content[name] = text
}

func (m *model) clone(t *testing.T) {
	t.Helper()
	source, name := m.any(), m.name()
	m.live[name] = cloneOf(t, m.b.(cloner), name, source)
	m.content[name], m.from[name] = m.content[source], source
}

// delete deletes a volume, and with it those that waited for it, as volume.Manager does.
func (m *model) delete(t *testing.T) {
	t.Helper()
	name := m.any()
	discard(t, m.b, name)
	delete(m.content, name)
	delete(m.live, name)
	m.waiting[name] = true
	for name != "" && m.waiting[name] {
		err := m.b.Purge(t.Context(), Spec(t, name).Name)
		if errors.Is(err, volume.ErrCloned) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		delete(m.waiting, name)
		name = m.from[name]
	}
}

// check compares what there is with the model.
func (m *model) check(t *testing.T) {
	t.Helper()
	wantNames(t, m.b, append(slices.Collect(maps.Keys(m.content)), slices.Collect(maps.Keys(m.waiting))...)...)
	for name, want := range m.content {
		if text, err := os.ReadFile(filepath.Join(m.live[name].Dir, "content")); err != nil || string(text) != want {
			t.Errorf("%s holds %q, want %q; %v", name, text, want, err)
		}
	}
}
