package app

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/export/fixed"
	"github.com/berth-storage/berth/internal/metrics"
	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/mem"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

// meteredBackend is one in memory, whose volumes take up what used says.
type meteredBackend struct {
	mem.Backend
	used map[string]volume.Usage
	list []error // beside the volumes
}

func (b *meteredBackend) Usage(_ context.Context, v volume.Volume) (volume.Usage, error) {
	u, found := b.used[v.Name.String()]
	if !found {
		return u, volume.ErrUnsupported
	}
	return u, nil
}

func (b *meteredBackend) List(ctx context.Context) iter.Seq2[volume.Volume, error] {
	return func(yield func(volume.Volume, error) bool) {
		for _, err := range b.list {
			if !yield(volume.Volume{}, err) {
				return
			}
		}
		b.Backend.List(ctx)(yield)
	}
}

func TestVolumesOfAPoolForMetrics(t *testing.T) {
	b := &meteredBackend{
		used: map[string]volume.Usage{"pvc-1": {Bytes: 4096, Inodes: 3}},
		list: []error{errors.New("a record is damaged")},
	}
	for _, name := range []string{"pvc-1", "pvc-2", "pvc-gone"} {
		if _, err := b.Create(t.Context(), volumetest.Spec(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Discard(t.Context(), volumetest.Spec(t, "pvc-gone").Name); err != nil {
		t.Fatal(err)
	}
	m := volume.NewManager(volume.Pool{Backend: b})
	got, err := volumesOf(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	want := []metrics.Volume{
		{Name: "pvc-1", Namespace: "default", Claim: "claim-pvc-1", Size: 1 << 20, Counted: true, Used: 4096, Inodes: 3},
		{Name: "pvc-2", Namespace: "default", Claim: "claim-pvc-2", Size: 1 << 20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	b.list = []error{volume.ErrUnknown} // half a list would take volumes for gone
	if got, err := volumesOf(t.Context(), m); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("got %v, %v; want %v", got, err, volume.ErrUnknown)
	}
}

// A deleted volume is counted as long as its clone is there.
func TestTombstonesAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{config: newConfig(t), log: slog.New(slog.DiscardHandler), metrics: metrics.New("dev")}
		m := volume.NewManager(volume.Pool{Name: "tank", Backend: &mem.Backend{}, Server: fixed.Server{}, ExportPath: "/tank", Log: a.log})
		if _, err := m.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		source, clone := volumetest.Spec(t, "pvc-1"), volumetest.Spec(t, "pvc-2")
		clone.From = &volume.Source{Volume: source.Name}
		for _, s := range []volume.Spec{source, clone} {
			if _, err := m.Create(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		running.Go(func() { a.measure(ctx, "tank", m) })
		for _, step := range []struct {
			name volume.Name
			want string
		}{{source.Name, "1"}, {clone.Name, "0"}} {
			if err := m.Delete(t.Context(), step.name, source.Cluster); err != nil {
				t.Fatal(err)
			}
			time.Sleep(measureEvery)
			synctest.Wait()
			answer := httptest.NewRecorder()
			a.metrics.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			if line := `berth_pool_tombstones{pool="tank"} ` + step.want + "\n"; !strings.Contains(answer.Body.String(), line) {
				t.Errorf("when %s was deleted there is no line %s", step.name, line)
			}
		}
		cancel()
		running.Wait()
	})
}
