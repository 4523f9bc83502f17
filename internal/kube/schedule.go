package kube

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // for CRON_TZ, in images that have no time zones

	"github.com/robfig/cron/v3"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// What says when snapshots are taken of a claim: parameters of its StorageClass, and annotations
// with these names, which go before them.
const (
	parameterSchedule = "snapshotSchedule"
	parameterKeep     = "snapshotKeep"
	parameterMaxAge   = "snapshotMaxAge"
	parameterClass    = "snapshotClass"

	prefixSchedule = prefixOwn + "snapshot-" // of our annotations that are about schedules
)

var (
	scheduleParameters = []string{parameterSchedule, parameterKeep, parameterMaxAge, parameterClass}
	// scheduleAnnotations are in the order of scheduleParameters, without prefixOwn.
	scheduleAnnotations = []string{"snapshot-schedule", "snapshot-keep", "snapshot-max-age", "snapshot-class"}
)

// keptSnapshots is how many are kept if nothing says how many.
const keptSnapshots = 7

// schedule is when snapshots are taken of a claim, and which of them are kept.
type schedule struct {
	times  cron.Schedule // nil: never
	keep   int
	maxAge time.Duration // 0: any
	class  *string       // the VolumeSnapshotClass; nil: the default one
}

// isOfSchedule says whether an annotation is one of schedules.
func isOfSchedule(annotation string) bool {
	name, own := strings.CutPrefix(annotation, prefixOwn)
	return own && slices.Contains(scheduleAnnotations, name)
}

// scheduleOf reads the schedule of a claim of class, which may be nil. It is nil if there is none.
func scheduleOf(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) (*schedule, error) {
	for _, annotation := range slices.Sorted(maps.Keys(claim.Annotations)) {
		if strings.HasPrefix(annotation, prefixSchedule) && !isOfSchedule(annotation) {
			name := strings.TrimPrefix(annotation, prefixOwn)
			return nil, fmt.Errorf("%w: annotation %.200s is unknown%s", volume.ErrInvalid, annotation, suggest.Nearest(name, scheduleAnnotations))
		}
	}
	s := &schedule{keep: keptSnapshots}
	for i, parameter := range scheduleParameters {
		annotation := prefixOwn + scheduleAnnotations[i]
		where := "annotation " + annotation
		value, found := claim.Annotations[annotation]
		if !found && class != nil {
			where = "StorageClass parameter " + parameter
			for name, text := range class.Parameters {
				if strings.EqualFold(name, parameter) {
					value = text
				}
			}
		}
		if err := s.set(parameter, value); err != nil {
			return nil, fmt.Errorf("%w: %s: %.200q is not %w", volume.ErrInvalid, where, value, err)
		}
		if s.times == nil { // the first parameter says that there is no schedule
			return nil, nil
		}
	}
	return s, nil
}

// set sets what one of the parameters says; "" is as if it were not there. Its error says what
// the value should have been.
func (s *schedule) set(parameter, value string) (err error) {
	if value == "" {
		return nil
	}
	switch parameter {
	case parameterSchedule:
		if s.times, err = parseTimes(value); err != nil {
			return fmt.Errorf(`a schedule like "0 3 * * *", each day at 3:00 UTC: %w`, err)
		}
	case parameterKeep:
		if s.keep, err = strconv.Atoi(value); err != nil || s.keep < 1 {
			return fmt.Errorf("a number of snapshots above 0")
		}
	case parameterMaxAge:
		if s.maxAge, err = parseAge(value); err != nil || s.maxAge <= 0 {
			return fmt.Errorf("an age like 30d or 12h30m")
		}
	case parameterClass:
		if problems := validation.IsDNS1123Subdomain(value); len(problems) > 0 {
			return fmt.Errorf("the name of a VolumeSnapshotClass")
		}
		s.class = &value
	}
	return nil
}

// parseTimes reads what a CronJob's schedule could say, in UTC if it names no time zone. See
// https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
func parseTimes(text string) (cron.Schedule, error) {
	if strings.Contains(text, "TZ=") && !strings.Contains(text, " ") { // the parser panics
		return nil, fmt.Errorf("only a time zone")
	}
	times, err := cron.ParseStandard(text)
	if err != nil {
		return nil, err
	}
	if _, fixed := times.(*cron.SpecSchedule); !fixed {
		return nil, fmt.Errorf("@every counts from when something began; say at what times")
	}
	if times.Next(time.Now().UTC()).IsZero() {
		return nil, fmt.Errorf("there is no such day")
	}
	return times, nil
}

// parseAge reads a number of days, as 30d, or what time.ParseDuration does.
func parseAge(text string) (time.Duration, error) {
	number, isDays := strings.CutSuffix(text, "d")
	if !isDays {
		return time.ParseDuration(text)
	}
	days, err := strconv.ParseUint(number, 10, 16)
	return time.Duration(days) * 24 * time.Hour, err
}

// due gives the last time that has come since, zero if none has, and the next one.
func (s *schedule) due(since, now time.Time) (due, next time.Time) {
	since, now = since.UTC().Truncate(time.Second), now.UTC()
	next = s.times.Next(now)
	// Times are a minute apart or more: the last minute after which one is still to come has the
	// last one behind it. Searched for, because there may be millions between.
	after := func(minutes int) time.Time { return s.times.Next(since.Add(time.Duration(minutes) * time.Minute)) }
	none := sort.Search(int(now.Sub(since)/time.Minute)+1, func(minutes int) bool {
		t := after(minutes)
		return t.IsZero() || t.After(now)
	})
	if none == 0 {
		return time.Time{}, next
	}
	return after(none - 1), next
}

// scheduled is a VolumeSnapshot that a schedule had made.
type scheduled struct {
	name    string
	uid     types.UID
	at      time.Time // when it was due
	ready   bool
	leaving bool // it is being deleted
}

// parseScheduled reads a VolumeSnapshot of a claim. It is false for one that was made by
// somebody else, whatever its label says.
func parseScheduled(object any, claim *v1.PersistentVolumeClaim) (scheduled, bool) {
	snapshot, err := parseObject[volumeSnapshot](object)
	if err != nil || snapshot.Labels[labelScheduleOf] != string(claim.UID) {
		return scheduled{}, false
	}
	at, err := time.Parse(time.RFC3339, snapshot.Annotations[annScheduledAt])
	source := snapshot.Spec.Source.Claim
	if err != nil || source == nil || *source != claim.Name || snapshot.Name != scheduledName(claim.Name, at) {
		return scheduled{}, false
	}
	return scheduled{snapshot.Name, snapshot.UID, at, snapshot.Status.Ready, snapshot.DeletionTimestamp != nil}, true
}

// scheduledName is what the VolumeSnapshot of a claim is called that is due at a time: the same
// each time that it is tried to make it.
func scheduledName(claim string, at time.Time) string {
	suffix := at.UTC().Format("-20060102-1504")
	if len(claim)+len(suffix) > validation.DNS1123SubdomainMaxLength {
		suffix = fmt.Sprintf("-%x%s", sha256.Sum256([]byte(claim)), suffix)
		claim = strings.TrimRight(claim[:validation.DNS1123SubdomainMaxLength-len(suffix)], "-.")
	}
	return claim + suffix
}

// newestFirst sorts the snapshots of a schedule.
func newestFirst(of []scheduled) {
	slices.SortFunc(of, func(a, b scheduled) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.name, b.name)) })
}

// surplus gives those of a schedule's snapshots, newest first, that are not to be kept, and
// when it has to be looked again because the next one becomes too old; zero if none does.
// One that is not ready is neither counted nor surplus: nobody could restore from it yet.
func (s *schedule) surplus(of []scheduled, now time.Time) (gone []scheduled, next time.Time) {
	kept := 0
	for _, snapshot := range of {
		expires := snapshot.at.Add(s.maxAge)
		switch {
		case !snapshot.ready || snapshot.leaving:
		case kept >= s.keep, kept > 0 && s.maxAge > 0 && expires.Before(now):
			gone = append(gone, snapshot)
		default:
			if kept++; kept > 1 && s.maxAge > 0 {
				next = expires // that of the oldest one comes first
			}
		}
	}
	return gone, next
}
