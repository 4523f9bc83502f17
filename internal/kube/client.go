package kube

import (
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ClientOptions say which API server, and how fast.
type ClientOptions struct {
	Master     string  // URL; together with Kubeconfig empty: the pod's service account
	Kubeconfig string  // path
	QPS        float32 // requests a second in the long run
	Burst      int     // requests at once
	UserAgent  string
}

// Client is a connection to a cluster.
type Client struct {
	kubernetes.Interface
	objects   dynamic.Interface    // for custom resources
	lease     kubernetes.Interface // with a limit of its own, so that no burst of claims costs us the Lease
	namespace string               // where Berth's own objects go
	inPod     bool
}

// NewClient makes a Client. It does not talk to the cluster yet.
func NewClient(o ClientOptions) (Client, error) {
	config, namespace, err := loadConfig(o)
	if err != nil {
		return Client{}, err
	}
	config.QPS, config.Burst = o.QPS, o.Burst
	config.UserAgent = o.UserAgent
	// A third of JSON's work for both sides; JSON where a server lacks it.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	c := Client{namespace: namespace, inPod: o.Master == "" && o.Kubeconfig == ""}
	if c.Interface, err = kubernetes.NewForConfig(config); err != nil {
		return Client{}, fmt.Errorf("kubernetes client: %w", err)
	}
	if c.objects, err = dynamic.NewForConfig(config); err != nil {
		return Client{}, fmt.Errorf("kubernetes client for custom resources: %w", err)
	}
	lease := rest.CopyConfig(config)
	lease.QPS, lease.Burst = 5, 10
	lease.Timeout = renewDeadline / 2 // of one try
	if c.lease, err = kubernetes.NewForConfig(lease); err != nil {
		return Client{}, fmt.Errorf("kubernetes client: %w", err)
	}
	return c, nil
}

func loadConfig(o ClientOptions) (*rest.Config, string, error) {
	if o.Master == "" && o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, "", fmt.Errorf("no API server: outside of a pod say which one, by a kubeconfig or the master's URL: %w", err)
		}
		return config, podNamespace(), nil
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig},
		&clientcmd.ConfigOverrides{ClusterInfo: api.Cluster{Server: o.Master}},
	)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig %s: %w", o.Kubeconfig, err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig %s: %w", o.Kubeconfig, err)
	}
	return config, namespace, nil
}

// podNamespace is the namespace of the pod that Berth runs in; see
// https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
func podNamespace() string {
	if ns := os.Getenv(envPodNamespace); ns != "" {
		return ns
	}
	text, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if ns := strings.TrimSpace(string(text)); err == nil && ns != "" {
		return ns
	}
	return "default"
}
