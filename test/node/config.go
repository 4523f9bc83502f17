package node

import "github.com/berth-storage/berth/test/vm"

// startScript starts the node's programs in the guest, with the arguments NAME ADDRESS.
const startScript = `
cd ` + vm.Share + `
mount --make-rshared /
for module in overlay bridge veth br_netfilter nfsv4; do modprobe $module; done
echo 1 >/proc/sys/net/ipv4/ip_forward
mkdir -p /etc/containerd /etc/cni/net.d
cp containerd.toml /etc/containerd/config.toml
cp network.conf /etc/cni/net.d/10-test.conf
containerd >containerd.log 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do kill -0 $!; sleep 0.1; done
ctr -n k8s.io images import image.tar
./kubelet --config kubelet.yaml --kubeconfig kubeconfig --hostname-override "$1" --node-ip "$2" >kubelet.log 2>&1 &
`

// kubeletConfig is the kubelet's configuration, for an address. A test needs no
// headroom on the node, and shall see usage soon.
const kubeletConfig = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
authentication:
  anonymous: {enabled: false}
  x509: {clientCAFile: /host/authority.crt}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: []
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
volumeStatsAggPeriod: 5s
`

// containerdConfig has the pods' only image be that of their sandbox too.
const containerdConfig = `
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + Image + `"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
`

// networkConfig gives pods addresses of a bridge.
const networkConfig = `{
  "cniVersion": "0.4.0", "name": "pods", "type": "bridge", "bridge": "pods", "isGateway": true,
  "ipam": {"type": "host-local", "subnet": "10.244.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
}
`
