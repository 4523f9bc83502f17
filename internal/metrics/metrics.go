// Package metrics is where every metric of Berth is defined.
package metrics

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are Berth's metrics.
type Metrics struct {
	registry        *prometheus.Registry
	operations      *prometheus.HistogramVec
	serverRestarts  prometheus.Counter
	poolCapacity    *prometheus.GaugeVec
	poolAvailable   *prometheus.GaugeVec
	poolTombstones  *prometheus.GaugeVec
	buildInfo       *prometheus.GaugeVec
	provisionerTime *prometheus.HistogramVec
	volumes         *volumes
}

// From half a millisecond, a claim on a fast disk, to a minute.
var secondBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}

// New makes and registers the metrics.
func New(version string) *Metrics {
	m := &Metrics{
		volumes:  newVolumes(),
		registry: prometheus.NewRegistry(),
		operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_volume_operation_seconds",
			Help:    "Time that operations on volumes took, by pool, operation and result (ok or error).",
			Buckets: secondBuckets,
		}, []string{"pool", "operation", "result"}),
		provisionerTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "berth_provisioner_step_seconds",
			Help:    "Time that Berth's own part of provisioning and deleting took, by provisioner, step and result (ok or error).",
			Buckets: secondBuckets,
		}, []string{"provisioner", "step", "result"}),
		serverRestarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_nfs_server_restarts_total",
			Help: "Times that the NFS server ended by itself, or hung, and was started again.",
		}),
		poolCapacity: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_bytes",
			Help: "Room of a pool, by kind (total or available).",
		}, []string{"pool", "kind"}),
		poolAvailable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_available",
			Help: "1 if a pool's storage is there and answers, else 0.",
		}, []string{"pool"}),
		poolTombstones: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_pool_tombstones",
			Help: "Deleted volumes whose space is not freed before their clones are deleted too.",
		}, []string{"pool"}),
		buildInfo: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_build_info",
			Help: "1, by version.",
		}, []string{"version"}),
	}
	m.registry.MustRegister(m.operations, m.provisionerTime, m.serverRestarts, m.poolCapacity, m.poolAvailable, m.poolTombstones, m.volumes, m.buildInfo,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.buildInfo.WithLabelValues(version).Set(1)
	return m
}

// Register adds metrics that are defined by a library.
func (m *Metrics) Register(c ...prometheus.Collector) error {
	var failed []error
	for _, c := range c {
		failed = append(failed, m.registry.Register(c))
	}
	return errors.Join(failed...)
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Operation is the volume.Pool.Observe of a pool.
func (m *Metrics) Operation(pool string) func(operation string, took time.Duration, err error) {
	return func(operation string, took time.Duration, err error) {
		m.operations.WithLabelValues(pool, operation, result(err)).Observe(took.Seconds())
	}
}

// Step is the kube.Options.Observe of a provisioner.
func (m *Metrics) Step(provisioner string) func(step string, took time.Duration, err error) {
	return func(step string, took time.Duration, err error) {
		m.provisionerTime.WithLabelValues(provisioner, step, result(err)).Observe(took.Seconds())
	}
}

// ServerRestarted counts a restart of the NFS server.
func (m *Metrics) ServerRestarted() { m.serverRestarts.Inc() }

// PoolCapacity sets a pool's room in bytes.
func (m *Metrics) PoolCapacity(pool string, total, available uint64) {
	m.poolCapacity.WithLabelValues(pool, "total").Set(float64(total))
	m.poolCapacity.WithLabelValues(pool, "available").Set(float64(available))
}

// PoolAvailable says whether a pool's storage is there and answers.
func (m *Metrics) PoolAvailable(pool string, available bool) {
	value := 0.0
	if available {
		value = 1
	}
	m.poolAvailable.WithLabelValues(pool).Set(value)
}

// PoolTombstones says how many deleted volumes of a pool wait for their clones.
func (m *Metrics) PoolTombstones(pool string, n int) {
	m.poolTombstones.WithLabelValues(pool).Set(float64(n))
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}
