package kube

import (
	"context"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// rights are permissions that Berth can do without, for the roles that were
// written for programs that it takes the place of lack them.
type rights struct {
	cluster    bool // read the namespace kube-system, whose uid names the cluster
	lease      bool // keep a Lease
	neighbours bool // read those of other instances
	finalizers bool // put finalizers on PersistentVolumes, and take them off
	growth     bool // change the capacity of PersistentVolumes, and the status of claims
	snapshots  bool // all that is to be done to the objects of VolumeSnapshots
	schedules  bool // make and delete VolumeSnapshots
}

// blind says that other instances are not seen, or do not see this one.
func (r rights) blind() bool { return !r.neighbours || !r.lease }

// askRights asks the API server what Berth may do, and says what is missing. It
// waits for the API server.
func (f *FrontEnd) askRights(ctx context.Context) rights {
	ns := f.client.namespace
	r := rights{true, true, true, true, true, true, true}
	for _, c := range []struct {
		right   *bool
		verbs   []string
		what    authorizationv1.ResourceAttributes
		without string
	}{
		{
			&r.cluster, []string{"get"}, authorizationv1.ResourceAttributes{Resource: "namespaces", Name: metav1.NamespaceSystem},
			"volumes are recorded without the cluster that they are of",
		},
		{
			&r.lease, []string{"get", "create", "update"}, authorizationv1.ResourceAttributes{Group: "coordination.k8s.io", Resource: "leases", Namespace: ns},
			"only the lock on the pool's root keeps a second process from working on it",
		},
		{
			&r.neighbours, []string{"list", "watch"}, authorizationv1.ResourceAttributes{Group: "coordination.k8s.io", Resource: "leases", Namespace: ns},
			"claims that another instance took and did not serve are not taken over from it",
		},
		{
			&r.finalizers, []string{"patch"}, authorizationv1.ResourceAttributes{Resource: "persistentvolumes"},
			"the data of a PersistentVolume that is deleted before its claim stays behind",
		},
		{
			&r.growth, []string{"patch"}, authorizationv1.ResourceAttributes{Resource: "persistentvolumeclaims", Subresource: "status"},
			"claims cannot grow",
		},
		{
			&r.snapshots, []string{"get", "list", "watch", "patch"}, authorizationv1.ResourceAttributes{Group: snapshotGroup, Resource: snapshotsPlural},
			"snapshots are off",
		},
		{
			&r.schedules, []string{"create", "delete"}, authorizationv1.ResourceAttributes{Group: snapshotGroup, Resource: snapshotsPlural},
			"no snapshots are taken by schedules",
		},
		{
			&r.snapshots, []string{"get", "list", "watch", "create", "patch", "delete"}, authorizationv1.ResourceAttributes{Group: snapshotGroup, Resource: contentsPlural},
			"snapshots are off",
		},
		{
			&r.snapshots, []string{"patch"}, authorizationv1.ResourceAttributes{Group: snapshotGroup, Resource: contentsPlural, Subresource: "status"},
			"snapshots are off",
		},
		{
			&r.snapshots, []string{"list", "watch"}, authorizationv1.ResourceAttributes{Group: snapshotGroup, Resource: snapshotClasses},
			"snapshots are off",
		},
	} {
		for _, verb := range c.verbs {
			c.what.Verb = verb
			if !f.may(ctx, c.what) {
				*c.right = false
				f.o.Log.Warn("Berth works without a permission that it should have; see deploy/rbac", "verb", verb, "resource", resourceText(c.what),
					"namespace", c.what.Namespace, "name", c.what.Name, "without", c.without)
				break
			}
		}
	}
	r.growth = r.growth && r.finalizers // the same verb
	return r
}

func resourceText(what authorizationv1.ResourceAttributes) string {
	if what.Subresource == "" {
		return what.Resource
	}
	return what.Resource + "/" + what.Subresource
}

// may asks whether Berth may do something; it waits for an answer until ctx ends.
func (f *FrontEnd) may(ctx context.Context, what authorizationv1.ResourceAttributes) bool {
	for {
		allowed, err := allowed(ctx, f.client, what)
		if err == nil || ctx.Err() != nil {
			return allowed
		}
		f.o.Log.Warn("waiting for the API server; NFS is served meanwhile", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryCluster):
		}
	}
}

// allowed asks the API server; every user may, by the role system:basic-user. See
// https://kubernetes.io/docs/reference/access-authn-authz/authorization/
func allowed(ctx context.Context, client kubernetes.Interface, what authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
	answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}
