package metrics_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-storage/berth/internal/metrics"
)

func exposition(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != 200 {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// observed makes metrics with one observation of each kind.
func observed() *metrics.Metrics {
	m := metrics.New("v1.2.3")
	m.Operation("local")("create", 3*time.Millisecond, nil)
	m.Operation("local")("delete", time.Second, errors.New("no"))
	m.Step("example.com/nfs")("provision", 4*time.Millisecond, nil)
	m.ServerRestarted()
	m.PoolCapacity("local", 1000, 10)
	m.PoolAvailable("local", true)
	m.PoolAvailable("nas", false)
	m.PoolTombstones("local", 2)
	m.SetVolumes("local", []metrics.Volume{
		{Name: "pvc-1", Namespace: "team", Claim: "data", Size: 1 << 20, Counted: true, Used: 4096, Inodes: 3},
		{Name: "pvc-2", Namespace: "team", Claim: "cache", Size: 5, Counted: true}, // empty, on btrfs
		{Name: "pvc-3", Namespace: "team", Claim: "advisory", Size: 7},
	})
	return m
}

func TestExposition(t *testing.T) {
	got := exposition(t, observed())
	for _, want := range []string{
		`berth_volume_operation_seconds_bucket{operation="create",pool="local",result="ok",le="0.002"} 0`,
		`berth_volume_operation_seconds_bucket{operation="create",pool="local",result="ok",le="0.005"} 1`,
		`berth_volume_operation_seconds_sum{operation="create",pool="local",result="ok"} 0.003`,
		`berth_volume_operation_seconds_count{operation="delete",pool="local",result="error"} 1`,
		`berth_provisioner_step_seconds_count{provisioner="example.com/nfs",result="ok",step="provision"} 1`,
		`berth_nfs_server_restarts_total 1`,
		`berth_pool_bytes{kind="available",pool="local"} 10`,
		`berth_pool_available{pool="local"} 1`,
		`berth_pool_available{pool="nas"} 0`,
		`berth_pool_tombstones{pool="local"} 2`,
		`berth_pool_bytes{kind="total",pool="local"} 1000`,
		`berth_volume_size_bytes{claim="data",namespace="team",pool="local",volume="pvc-1"} 1.048576e+06`,
		`berth_volume_used_bytes{claim="data",namespace="team",pool="local",volume="pvc-1"} 4096`,
		`berth_volume_used_inodes{claim="data",namespace="team",pool="local",volume="pvc-1"} 3`,
		`berth_volume_used_bytes{claim="cache",namespace="team",pool="local",volume="pvc-2"} 0`,
		`berth_volume_size_bytes{claim="advisory",namespace="team",pool="local",volume="pvc-3"} 7`,
		`berth_build_info{version="v1.2.3"} 1`,
	} {
		if !slices.Contains(strings.Split(got, "\n"), want) {
			t.Errorf("there is no line %s in:\n%s", want, got)
		}
	}
	for _, prefix := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(got, "\n"+prefix) {
			t.Errorf("there is no metric %s", prefix)
		}
	}
}

func TestOnlyWhatIsCountedIsTold(t *testing.T) {
	got := exposition(t, observed())
	for _, line := range []string{`berth_volume_used_bytes{claim="advisory"`, `berth_volume_used_inodes{claim="advisory"`, `berth_volume_used_inodes{claim="cache"`} {
		if strings.Contains(got, line) {
			t.Errorf("there is a line %s in:\n%s", line, got)
		}
	}
}

func TestVolumesThatAreGoneLeaveNoMetrics(t *testing.T) {
	m := observed()
	m.SetVolumes("other", []metrics.Volume{{Name: "pvc-9"}})
	m.SetVolumes("local", nil)
	got := exposition(t, m)
	if strings.Contains(got, `volume="pvc-1"`) || !strings.Contains(got, `volume="pvc-9"`) {
		t.Errorf("got:\n%s", got)
	}
}

func TestMetricsOfKubernetesZFSProvisioner(t *testing.T) {
	m := observed()
	const name = "zfs_provisioner_persistent_volume_"
	if got := exposition(t, m); strings.Contains(got, name) {
		t.Errorf("pools that do not take over from it have them:\n%s", got)
	}
	m.Datasets("local", "tank/pv", "nas")
	got := strings.Split(exposition(t, m), "\n")
	for _, want := range []string{
		`capacity{hostname="nas",parent="tank/pv",persistent_volume="tank/pv/pvc-1"} 1.048576e+06`,
		`used{hostname="nas",parent="tank/pv",persistent_volume="tank/pv/pvc-1"} 4096`,
		`capacity{hostname="nas",parent="tank/pv",persistent_volume="tank/pv/pvc-3"} 7`,
	} {
		if !slices.Contains(got, name+want) {
			t.Errorf("there is no line %s%s in:\n%s", name, want, strings.Join(got, "\n"))
		}
	}
	if slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, name+"used") && strings.Contains(line, "pvc-3") }) {
		t.Error("what is not counted is told")
	}
}

// docs/operating.md has a table of all metrics.
func TestMetricsAreThoseThatAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	names := func(text, pattern string) []string {
		var found []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		slices.Sort(found)
		return found
	}
	documented := names(string(page), "(?m)^\\| `(berth_[a-z_]+)`")
	exposed := names(exposition(t, observed()), `(?m)^# TYPE (berth_[a-z_]+) `)
	if diff := cmp.Diff(documented, exposed); diff != "" || len(exposed) == 0 {
		t.Errorf("metrics (-documented +exposed):\n%s", diff)
	}
}

func TestRegister(t *testing.T) {
	m := metrics.New("dev")
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "controller_x_total"})
	if err := m.Register(counter); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(exposition(t, m), "controller_x_total 0") {
		t.Error("a registered metric is not exposed")
	}
	if err := m.Register(counter); err == nil {
		t.Error("registered the same metric twice")
	}
}
