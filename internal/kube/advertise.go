package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// What an instance says of itself on its Lease, each time that it renews it: the
// others decide by it who makes a claim's volume.
const (
	annProvisioner = "berth.storage/provisioner"
	annNode        = "berth.storage/node" // that it runs on, as NODE_NAME says
	annRoom        = "berth.storage/room" // JSON: pool → room
)

// instance is a Berth that serves one provisioner name, alone or beside others.
type instance struct {
	id   string // of its first pool
	node string
	room map[string]room // by pool
}

// room is what a pool has left, as volume.Room.
type room struct {
	Free       int64 `json:"free"`
	Unpromised int64 `json:"unpromised"`
}

// annotations are what i says of itself.
func (i instance) annotations(provisioner string) (map[string]string, error) {
	room, err := json.Marshal(i.room)
	if err != nil {
		return nil, fmt.Errorf("room of the pools: %w", err)
	}
	return map[string]string{annInstance: i.id, annProvisioner: provisioner, annNode: i.node, annRoom: string(room)}, nil
}

// parseInstance reads what a Lease says of its instance, if it is one of provisioner.
func parseInstance(lease *coordinationv1.Lease, provisioner string) (i instance, ok bool) {
	said := lease.Annotations
	if said[annProvisioner] != provisioner || said[annInstance] == "" {
		return instance{}, false
	}
	i = instance{id: said[annInstance], node: said[annNode]}
	// Who cannot say what pools he has has none.
	if json.Unmarshal([]byte(said[annRoom]), &i.room) != nil {
		i.room = nil
	}
	return i, true
}

// advertisingLeases writes annotations on the Leases that go through it.
type advertisingLeases struct {
	coordinationclient.LeasesGetter
	annotations func(ctx context.Context) map[string]string
}

func (a advertisingLeases) Leases(namespace string) coordinationclient.LeaseInterface {
	return advertisingLease{a.LeasesGetter.Leases(namespace), a.annotations}
}

type advertisingLease struct {
	coordinationclient.LeaseInterface
	annotations func(ctx context.Context) map[string]string
}

func (a advertisingLease) Create(ctx context.Context, l *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	return a.LeaseInterface.Create(ctx, a.say(ctx, l), o)
}

func (a advertisingLease) Update(ctx context.Context, l *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	return a.LeaseInterface.Update(ctx, a.say(ctx, l), o)
}

func (a advertisingLease) say(ctx context.Context, l *coordinationv1.Lease) *coordinationv1.Lease {
	if l.Annotations == nil {
		l.Annotations = make(map[string]string)
	}
	maps.Copy(l.Annotations, a.annotations(ctx))
	return l
}
