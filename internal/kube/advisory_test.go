package kube

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/record"

	"github.com/berth-storage/berth/internal/volume"
)

// said gives the events that were made.
func said(a *advisor) (events []string) {
	for {
		select {
		case e := <-a.events.(*record.FakeRecorder).Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func TestAnAdvisorySizeIsSaidToBeOne(t *testing.T) {
	pool, volumes := newPool("local")
	p := newProvisioner(newClient(newClaim()), pool)
	for _, limit := range []volume.Limit{"xfs project quota", volume.LimitNone} {
		volumes.made = func(v *volume.Volume) { v.Limit = limit }
		if _, _, err := p.Provision(t.Context(), options(newClaim(), newClass())); err != nil {
			t.Fatal(err)
		}
		got := said(p.advisor)
		if limit != volume.LimitNone {
			if len(got) > 0 {
				t.Errorf("of a volume that is limited is said %q", got)
			}
			continue
		}
		if len(got) != 1 || !strings.HasPrefix(got[0], "Normal SizeNotEnforced ") || !strings.Contains(got[0], "1073741824 bytes: it may fill pool local") {
			t.Errorf("got events %q", got)
		}
	}
}

func TestAdviceIsGivenOnceAnHour(t *testing.T) {
	now := time.Now()
	a := newTestAdvisor(func() time.Time { return now })
	advise := func(namespace, class string) int {
		a.advise(newClaim(), volume.Volume{Claim: volume.Claim{Namespace: namespace}}, class, "local")
		return len(said(a))
	}
	for _, c := range []struct {
		namespace, class string
		want             int
	}{{"a", "x", 1}, {"a", "x", 0}, {"b", "x", 1}, {"a", "y", 1}} {
		if got := advise(c.namespace, c.class); got != c.want {
			t.Errorf("%d events for a claim of class %s in %s, want %d", got, c.class, c.namespace, c.want)
		}
	}
	now = now.Add(adviseEvery)
	if got := advise("a", "x"); got != 1 {
		t.Errorf("%d events an hour later, want 1", got)
	}
	if len(a.said) != 1 {
		t.Errorf("%d namespaces and classes are kept, want 1", len(a.said))
	}
}

func TestAdviceIsAnEventOnTheClaim(t *testing.T) {
	client := newClient()
	events, err := client.CoreV1().Events("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	a := newAdvisor(newRecorder(ctx, client))
	a.advise(newClaim(), volume.New(volume.Spec{Claim: claimOf(newClaim())}, time.Now()), "berth", "local")
	got := <-events.ResultChan()
	e, ok := got.Object.(*v1.Event)
	if !ok || got.Type != watch.Added {
		t.Fatalf("got %+v", got)
	}
	if o := e.InvolvedObject; o.Kind != "PersistentVolumeClaim" || o.Namespace != "team" || o.Name != "data" || o.UID != claimUID ||
		e.Reason != "SizeNotEnforced" || e.Type != v1.EventTypeNormal || e.Source.Component != "berth" {
		t.Errorf("got event %+v", e)
	}
	stop()
	a.advise(newClaim(), volume.Volume{}, "other", "local") // at the end of a term nobody listens, which must not hang
}
