package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Environment variables of a pod that tell its address; set by the downward API
// in the manifests.
const (
	envNodeName     = "NODE_NAME"
	envPodIP        = "POD_IP"
	envServiceName  = "SERVICE_NAME"
	envPodNamespace = "POD_NAMESPACE"
)

const addressFresh = time.Minute

// addressResolver finds the address of the NFS server that PersistentVolumes
// carry, in the order that nfs-provisioner documents: the configured one, the
// node's name, the Service's cluster IP, the pod's IP, the host's first address.
type addressResolver struct {
	client   kubernetes.Interface
	hostname string  // configured; may be empty
	ports    []int32 // TCP ports that a Service has to pass on
	inPod    bool
	env      func(string) string
	host     func() (string, error)

	cache *addressCache
}

// addressCache spares most claims the reading of the Service.
type addressCache struct {
	mu      sync.Mutex
	address string
	until   time.Time
}

func newAddressResolver(client kubernetes.Interface, hostname string, nfsPort int, nfsv3, inPod bool) addressResolver {
	ports := []int32{int32(nfsPort)}
	if nfsv3 {
		ports = append(ports, 20048, 111) // mountd and rpcbind
	}
	return addressResolver{client: client, hostname: hostname, ports: ports, inPod: inPod, env: os.Getenv, host: firstHostAddress, cache: &addressCache{}}
}

// resolve gives the address. Its errors are for the person who deployed Berth.
func (r addressResolver) resolve(ctx context.Context) (string, error) {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if time.Now().Before(r.cache.until) {
		return r.cache.address, nil
	}
	address, err := r.find(ctx)
	if err == nil {
		r.cache.address, r.cache.until = address, time.Now().Add(addressFresh)
	}
	return address, err
}

func (r addressResolver) find(ctx context.Context) (string, error) {
	if r.hostname != "" {
		return r.hostname, nil
	}
	if node := r.env(envNodeName); node != "" {
		return node, nil
	}
	podIP, service := r.env(envPodIP), r.env(envServiceName)
	switch {
	case podIP == "" && (r.inPod || service != ""):
		return "", fmt.Errorf("the environment variable %s must be set to the pod's IP, even if the Service's cluster IP is to be the NFS server's address", envPodIP)
	case podIP == "":
		return r.host()
	case service == "":
		return podIP, nil
	}
	namespace := r.env(envPodNamespace)
	if namespace == "" {
		return "", fmt.Errorf("the environment variable %s must be set to the pod's namespace, because %s is set", envPodNamespace, envServiceName)
	}
	return r.serviceAddress(ctx, namespace, service, podIP)
}

// serviceAddress gives the Service's cluster IP, if it certainly leads to this
// pod and no other, with every port that clients need.
func (r addressResolver) serviceAddress(ctx context.Context, namespace, name, podIP string) (string, error) {
	service, err := r.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading Service %s/%s (%s): %w", namespace, name, envServiceName, err)
	}
	if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == v1.ClusterIPNone {
		return "", fmt.Errorf("the Service %s/%s is valid but it doesn't have a cluster IP; it must not be headless", namespace, name)
	}
	// Endpoints and not EndpointSlices: the roles that people have for
	// nfs-provisioner allow reading the former only.
	endpoints, err := r.client.CoreV1().Endpoints(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading the Endpoints of Service %s/%s: %w", namespace, name, err)
	}
	var addresses []string
	var ports []v1.EndpointPort
	for _, subset := range endpoints.Subsets { // one for each set of ports
		for _, a := range subset.Addresses {
			addresses, ports = append(addresses, a.IP), append(ports, subset.Ports...)
		}
	}
	if !slices.Equal(slices.Compact(addresses), []string{podIP}) {
		return "", fmt.Errorf("the Service %s/%s is not valid; it must have this pod's IP %s as its only endpoint", namespace, name, podIP)
	}
	var missing []string
	for _, port := range r.ports {
		if !slices.ContainsFunc(ports, func(p v1.EndpointPort) bool { return p.Port == port && p.Protocol == v1.ProtocolTCP }) {
			missing = append(missing, strconv.Itoa(int(port)))
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("the Service %s/%s lacks the TCP ports %s of the NFS server", namespace, name, strings.Join(missing, ", "))
	}
	return service.Spec.ClusterIP, nil
}

// firstHostAddress is the first address of the host that others can reach, as
// "hostname -i" would say.
func firstHostAddress() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "", errors.New("this host has no address but loopback: say which one clients shall use (-server-hostname, or server.hostname in the configuration)")
}
