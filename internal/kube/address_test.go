package kube

import (
	"context"
	"errors"
	"maps"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const podIP, clusterIP = "10.1.0.7", "10.96.0.9"

func newService(clusterIP string) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: "nfs"}, Spec: v1.ServiceSpec{ClusterIP: clusterIP}}
}

// Roles for nfs-provisioner do not allow reading EndpointSlices, which Kubernetes has in their place now.
type (
	endpoints      = v1.Endpoints      //nolint:staticcheck // see above
	endpointSubset = v1.EndpointSubset //nolint:staticcheck // see above
)

// subset is a part of a Service's Endpoints with TCP ports.
func subset(ports []int32, ips ...string) endpointSubset {
	var s endpointSubset
	for _, ip := range ips {
		s.Addresses = append(s.Addresses, v1.EndpointAddress{IP: ip})
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, v1.EndpointPort{Port: p, Protocol: v1.ProtocolTCP})
	}
	return s
}

func newEndpoints(subsets ...endpointSubset) *endpoints {
	return &endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: "nfs"}, Subsets: subsets}
}

// resolver makes one with that environment and a host whose address is 192.0.2.1.
func resolver(hostname string, nfsv3, inPod bool, env map[string]string, objects ...runtime.Object) addressResolver {
	r := newAddressResolver(newClient(objects...), hostname, 2049, nfsv3, inPod)
	r.env = func(name string) string { return env[name] }
	r.host = func() (string, error) { return "192.0.2.1", nil }
	return r
}

func TestAddressIsFoundInTheDocumentedOrder(t *testing.T) {
	pod := map[string]string{"NODE_NAME": "node-1", "POD_IP": podIP, "SERVICE_NAME": "nfs", "POD_NAMESPACE": "storage"}
	without := func(names ...string) map[string]string {
		env := maps.Clone(pod)
		for _, name := range names {
			delete(env, name)
		}
		return env
	}
	service, serving := newService(clusterIP), newEndpoints(subset([]int32{2049}, podIP))
	for _, c := range []struct {
		name     string
		hostname string
		inPod    bool
		env      map[string]string
		want     string
	}{
		{"configured", "nfs.example.com", true, pod, "nfs.example.com"},
		{"configured, outside of a pod", "nfs.example.com", false, nil, "nfs.example.com"},
		{"configured, though the environment is not complete", "nfs.example.com", true, nil, "nfs.example.com"},
		{"node", "", true, pod, "node-1"},
		{"node, though the environment is not complete", "", true, map[string]string{"NODE_NAME": "node-1"}, "node-1"},
		{"Service", "", true, without("NODE_NAME"), clusterIP},
		{"Service, outside of a pod", "", false, without("NODE_NAME"), clusterIP},
		{"pod", "", true, without("NODE_NAME", "SERVICE_NAME"), podIP},
		{"pod without a namespace", "", true, without("NODE_NAME", "SERVICE_NAME", "POD_NAMESPACE"), podIP},
		{"host", "", false, nil, "192.0.2.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := resolver(c.hostname, false, c.inPod, c.env, service, serving).find(t.Context())
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestAddressErrorsSayWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name  string
		inPod bool
		env   map[string]string
		want  string
	}{
		{"pod's IP, in a pod", true, nil, "the environment variable POD_IP must be set"},
		{"pod's IP, with a Service", false, map[string]string{"SERVICE_NAME": "nfs", "POD_NAMESPACE": "storage"}, "the environment variable POD_IP must be set"},
		{"pod's namespace", true, map[string]string{"POD_IP": podIP, "SERVICE_NAME": "nfs"}, "the environment variable POD_NAMESPACE must be set"},
		{"Service", true, map[string]string{"POD_IP": podIP, "SERVICE_NAME": "nfs", "POD_NAMESPACE": "storage"}, "reading Service storage/nfs (SERVICE_NAME)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := resolver("", false, c.inPod, c.env).find(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, error %v; want one with %q", got, err, c.want)
			}
		})
	}
	t.Run("host's address", func(t *testing.T) {
		r := resolver("", false, false, nil)
		r.host = func() (string, error) { return "", errAPI }
		if got, err := r.find(t.Context()); !errors.Is(err, errAPI) {
			t.Errorf("got %q, error %v; want %v", got, err, errAPI)
		}
	})
}

func TestServiceHasToLeadToThisPodOnly(t *testing.T) {
	v4, v3 := []int32{2049}, []int32{2049, 20048, 111}
	udp := subset(v4, podIP)
	udp.Ports[0].Protocol = v1.ProtocolUDP
	notReady := subset(v4)
	notReady.NotReadyAddresses = []v1.EndpointAddress{{IP: podIP}}
	const notThisPod = "must have this pod's IP 10.1.0.7 as its only endpoint"
	for _, c := range []struct {
		name      string
		clusterIP string
		endpoints *endpoints
		nfsv3     bool
		err       string
	}{
		{"this pod", clusterIP, newEndpoints(subset(v4, podIP)), false, ""},
		{"this pod with more ports", clusterIP, newEndpoints(subset(v3, podIP)), false, ""},
		{"this pod with NFSv3", clusterIP, newEndpoints(subset(v3, podIP)), true, ""},
		{"this pod in two subsets", clusterIP, newEndpoints(subset([]int32{111}, podIP), subset([]int32{2049, 20048}, podIP)), true, ""},
		{"headless", "None", newEndpoints(subset(v4, podIP)), false, "it must not be headless"},
		{"without a cluster IP", "", newEndpoints(subset(v4, podIP)), false, "doesn't have a cluster IP"},
		{"no Endpoints", clusterIP, nil, false, "reading the Endpoints of Service storage/nfs"},
		{"no endpoint", clusterIP, newEndpoints(), false, notThisPod},
		{"endpoint that is not ready", clusterIP, newEndpoints(notReady), false, notThisPod},
		{"another pod", clusterIP, newEndpoints(subset(v4, "10.1.0.8")), false, notThisPod},
		{"this pod and another", clusterIP, newEndpoints(subset(v4, podIP, "10.1.0.8")), false, notThisPod},
		{"this pod and another with other ports", clusterIP, newEndpoints(subset(v4, podIP), subset([]int32{12049}, "10.1.0.8")), false, notThisPod},
		{"another with other ports and this pod", clusterIP, newEndpoints(subset([]int32{12049}, "10.1.0.8"), subset(v4, podIP)), false, notThisPod},
		{"no port", clusterIP, newEndpoints(subset(nil, podIP)), false, "lacks the TCP ports 2049"},
		{"UDP", clusterIP, newEndpoints(udp), false, "lacks the TCP ports 2049"},
		{"NFSv3 without its side protocols", clusterIP, newEndpoints(subset(v4, podIP)), true, "lacks the TCP ports 20048, 111"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := []runtime.Object{newService(c.clusterIP)}
			if c.endpoints != nil {
				objects = append(objects, c.endpoints)
			}
			env := map[string]string{"POD_IP": podIP, "SERVICE_NAME": "nfs", "POD_NAMESPACE": "storage"}
			got, err := resolver("", c.nfsv3, true, env, objects...).find(t.Context())
			switch {
			case c.err == "" && (err != nil || got != clusterIP):
				t.Errorf("got %q, %v; want %q", got, err, clusterIP)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got %q, error %v; want one with %q", got, err, c.err)
			}
		})
	}
}

func TestAddressIsKeptForAWhileAndErrorsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, fail := 0, errAPI
		r := resolver("", false, false, nil)
		r.host = func() (string, error) { asked++; return "192.0.2.1", fail }
		want := func(wantAsked int, wantErr error) {
			t.Helper()
			if got, err := r.resolve(context.Background()); !errors.Is(err, wantErr) || err == nil && got != "192.0.2.1" || asked != wantAsked {
				t.Errorf("got %q, %v after asking %d times; want error %v, asked %d times", got, err, asked, wantErr, wantAsked)
			}
		}
		want(1, errAPI)
		fail = nil
		want(2, nil)
		fail = errAPI
		want(2, nil)
		time.Sleep(addressFresh)
		want(3, errAPI)
	})
}

func TestFirstHostAddress(t *testing.T) {
	got, err := firstHostAddress()
	if err != nil { // a host with loopback only
		if !strings.Contains(err.Error(), "-server-hostname") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		return
	}
	if ip := net.ParseIP(got); ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		t.Errorf("got %q, which no other host can reach", got)
	}
}
