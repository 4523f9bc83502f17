package kube

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"
)

// LibraryMetrics makes the metrics that the library keeps, under the names that
// dashboards for external provisioners know, and gives them to be registered.
func LibraryMetrics() (metrics.Metrics, []prometheus.Collector) {
	m := metrics.New("controller")
	return m, []prometheus.Collector{
		m.PersistentVolumeClaimProvisionTotal, m.PersistentVolumeClaimProvisionFailedTotal,
		m.PersistentVolumeClaimProvisionDurationSeconds, m.PersistentVolumeDeleteTotal,
		m.PersistentVolumeDeleteFailedTotal, m.PersistentVolumeDeleteDurationSeconds,
	}
}
