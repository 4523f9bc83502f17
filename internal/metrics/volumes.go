package metrics

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Volume is what metrics tell of a volume.
type Volume struct {
	Name             string
	Namespace, Claim string
	Size             int64
	Counted          bool   // the next two are known
	Used, Inodes     uint64 // bytes, and files and folders; 0 inodes if only bytes are counted
}

var (
	volumeLabels  = []string{"pool", "volume", "namespace", "claim"}
	datasetLabels = []string{"persistent_volume", "parent", "hostname"}
)

// volumes are the metrics of all volumes, as they were measured last. They are kept in
// this form, and not as gauges, because ten thousand volumes are as many again of
// Prometheus' objects for each metric, and one that is gone has to leave nothing.
type volumes struct {
	size, used, inodes *prometheus.Desc
	// As kubernetes-zfs-provisioner has them, for who looks at those.
	zfsCapacity, zfsUsed *prometheus.Desc

	mu       sync.Mutex
	byPool   map[string][]Volume
	datasets map[string]datasets // by pool
}

// datasets is what kubernetes-zfs-provisioner's metrics tell of a pool.
type datasets struct{ parent, hostname string }

func newVolumes() *volumes {
	return &volumes{
		size:   prometheus.NewDesc("berth_volume_size_bytes", "Size of a volume, by pool, volume, and the claim that it was made for.", volumeLabels, nil),
		used:   prometheus.NewDesc("berth_volume_used_bytes", "What a volume takes up, where that is counted.", volumeLabels, nil),
		inodes: prometheus.NewDesc("berth_volume_used_inodes", "Files and folders of a volume, where they are counted.", volumeLabels, nil),
		zfsCapacity: prometheus.NewDesc("zfs_provisioner_persistent_volume_capacity",
			"Size of a volume, by dataset, parent dataset and NFS server; in pools that take over from kubernetes-zfs-provisioner.", datasetLabels, nil),
		zfsUsed: prometheus.NewDesc("zfs_provisioner_persistent_volume_used",
			"What a volume takes up without its snapshots; likewise.", datasetLabels, nil),
		byPool: map[string][]Volume{}, datasets: map[string]datasets{},
	}
}

// SetVolumes replaces what is told of a pool's volumes. They are not to be changed
// after that.
func (m *Metrics) SetVolumes(pool string, all []Volume) {
	m.volumes.mu.Lock()
	defer m.volumes.mu.Unlock()
	m.volumes.byPool[pool] = all
}

// Datasets has a pool's volumes told of as kubernetes-zfs-provisioner does too, whose parent
// dataset and NFS server are these.
func (m *Metrics) Datasets(pool, parent, hostname string) {
	m.volumes.mu.Lock()
	defer m.volumes.mu.Unlock()
	m.volumes.datasets[pool] = datasets{parent, hostname}
}

// Describe implements prometheus.Collector.
func (v *volumes) Describe(to chan<- *prometheus.Desc) {
	to <- v.size
	to <- v.used
	to <- v.inodes
	to <- v.zfsCapacity
	to <- v.zfsUsed
}

// Collect implements prometheus.Collector. It reads no disk.
func (v *volumes) Collect(to chan<- prometheus.Metric) {
	v.mu.Lock()
	pools, others := maps.Clone(v.byPool), maps.Clone(v.datasets)
	v.mu.Unlock()
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		if d, ok := others[pool]; ok {
			v.collectDatasets(to, d, pools[pool])
		}
		for _, volume := range pools[pool] {
			gauge := func(d *prometheus.Desc, value float64) {
				to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, pool, volume.Name, volume.Namespace, volume.Claim)
			}
			gauge(v.size, float64(volume.Size))
			if volume.Counted {
				gauge(v.used, float64(volume.Used))
			}
			if volume.Inodes > 0 {
				gauge(v.inodes, float64(volume.Inodes))
			}
		}
	}
}

func (v *volumes) collectDatasets(to chan<- prometheus.Metric, d datasets, all []Volume) {
	for _, volume := range all {
		gauge := func(desc *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, d.parent+"/"+volume.Name, d.parent, d.hostname)
		}
		gauge(v.zfsCapacity, float64(volume.Size))
		if volume.Counted {
			gauge(v.zfsUsed, float64(volume.Used))
		}
	}
}
