package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-storage/berth/internal/volume"
)

func parseTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWhenASnapshotIsDue(t *testing.T) {
	const none = ""
	for name, c := range map[string]struct{ times, since, now, due, next string }{
		"not yet":            {"0 3 * * *", "2026-01-05 12:00:00", "2026-01-06 02:59:59", none, "2026-01-06 03:00:00"},
		"to the second":      {"0 3 * * *", "2026-01-05 12:00:00", "2026-01-06 03:00:00", "2026-01-06 03:00:00", "2026-01-07 03:00:00"},
		"done":               {"0 3 * * *", "2026-01-06 03:00:00", "2026-01-06 03:00:00", none, "2026-01-07 03:00:00"},
		"one for all missed": {"0 3 * * *", "2026-01-06 03:00:00", "2026-02-01 02:00:00", "2026-01-31 03:00:00", "2026-02-01 03:00:00"},
		"each minute":        {"* * * * *", "2026-01-06 03:00:00", "2026-01-06 03:01:10", "2026-01-06 03:01:00", "2026-01-06 03:02:00"},
		"between minutes":    {"* * * * *", "2026-01-06 03:00:30", "2026-01-06 03:01:10", "2026-01-06 03:01:00", "2026-01-06 03:02:00"},
		"for a century":      {"* * * * *", "1926-01-06 03:00:00", "2026-01-06 03:00:10", "2026-01-06 03:00:00", "2026-01-06 03:01:00"},
		"bursts":             {"*/20 8,9 1 * *", "2025-11-01 08:20:00", "2026-01-20 00:00:00", "2026-01-01 09:40:00", "2026-02-01 08:00:00"},
		"leap days":          {"30 1 29 2 *", "2024-01-01 00:00:00", "2026-01-01 00:00:00", "2024-02-29 01:30:00", "2028-02-29 01:30:00"},
		"a word":             {"@weekly", "2026-01-01 00:00:00", "2026-01-05 00:00:00", "2026-01-04 00:00:00", "2026-01-11 00:00:00"},
		"a time zone":        {"CRON_TZ=Asia/Tokyo 0 3 * * *", "2026-01-05 00:00:00", "2026-01-06 00:00:00", "2026-01-05 18:00:00", "2026-01-06 18:00:00"},
		"a summer's end":     {"TZ=Europe/Berlin 30 2 * * *", "2026-10-24 12:00:00", "2026-10-25 00:45:00", "2026-10-25 00:30:00", "2026-10-25 01:30:00"},
		"a clock set back":   {"0 3 * * *", "2027-01-05 12:00:00", "2026-01-06 12:00:00", none, "2026-01-07 03:00:00"},
	} {
		t.Run(name, func(t *testing.T) {
			times, err := parseTimes(c.times)
			if err != nil {
				t.Fatal(err)
			}
			due, next := (&schedule{times: times}).due(parseTime(t, c.since), parseTime(t, c.now))
			text := func(at time.Time) string {
				if at.IsZero() {
					return none
				}
				return at.UTC().Format("2006-01-02 15:04:05")
			}
			if text(due) != c.due || text(next) != c.next {
				t.Errorf("got %q, then %q; want %q, then %q", text(due), text(next), c.due, c.next)
			}
		})
	}
}

func TestWhichSnapshotsAreKept(t *testing.T) {
	now := parseTime(t, "2026-01-20 12:00:00")
	day := func(ago int) scheduled {
		at := now.AddDate(0, 0, -ago)
		return scheduled{name: at.Format("02"), at: at, ready: true}
	}
	notReady := func(s scheduled) scheduled { s.ready = false; return s }
	leaving := func(s scheduled) scheduled { s.leaving = true; return s }
	for name, c := range map[string]struct {
		keep   int
		maxAge time.Duration
		of     []scheduled
		gone   []string
		next   string // of the one that becomes too old
	}{
		"none":                        {keep: 2},
		"few enough":                  {keep: 2, of: []scheduled{day(1), day(2)}},
		"one too many":                {keep: 2, of: []scheduled{day(3), day(1), day(2)}, gone: []string{"17"}},
		"not ready does not count":    {keep: 2, of: []scheduled{notReady(day(0)), day(1), day(2)}},
		"not ready is left alone":     {keep: 1, of: []scheduled{day(0), notReady(day(1)), day(2)}, gone: []string{"18"}},
		"being deleted":               {keep: 2, of: []scheduled{leaving(day(0)), day(1), day(2), leaving(day(3))}},
		"too old":                     {keep: 9, maxAge: 48 * time.Hour, of: []scheduled{day(0), day(1), day(3)}, gone: []string{"17"}, next: "2026-01-21 12:00:00"},
		"the newest has any age":      {keep: 9, maxAge: 24 * time.Hour, of: []scheduled{day(5), day(6)}, gone: []string{"14"}},
		"the newest that is ready":    {keep: 9, maxAge: 24 * time.Hour, of: []scheduled{notReady(day(0)), day(5), day(6)}, gone: []string{"14"}},
		"the next that is too old":    {keep: 9, maxAge: 72 * time.Hour, of: []scheduled{day(0), day(1), day(2)}, next: "2026-01-21 12:00:00"},
		"old, and too many":           {keep: 1, maxAge: time.Hour, of: []scheduled{day(1), day(2), day(3)}, gone: []string{"18", "17"}},
		"as many as were to be taken": {keep: 1, of: []scheduled{day(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			newestFirst(c.of)
			gone, next := (&schedule{keep: c.keep, maxAge: c.maxAge}).surplus(c.of, now)
			var names []string
			for _, s := range gone {
				names = append(names, s.name)
			}
			if diff := cmp.Diff(c.gone, names); diff != "" {
				t.Errorf("deleted (-want +got):\n%s", diff)
			}
			if want := c.next; next.IsZero() != (want == "") || want != "" && !next.Equal(parseTime(t, want)) {
				t.Errorf("looks again at %s, want %q", next, want)
			}
		})
	}
}

func TestSchedulesOfClaims(t *testing.T) {
	const own = "berth.storage/snapshot-"
	daily := map[string]string{"SnapshotSchedule": "0 3 * * *", "snapshotKeep": "3", "snapshotMaxAge": "30d", "snapshotClass": "cheap"}
	for name, c := range map[string]struct {
		class, claim map[string]string
		keep         int // 0: no schedule
		maxAge       time.Duration
		snapshots    string // class of
	}{
		"nothing said":          {},
		"of the class":          {class: daily, keep: 3, maxAge: 30 * 24 * time.Hour, snapshots: "cheap"},
		"by the claim":          {claim: map[string]string{own + "schedule": "@daily"}, keep: 7},
		"the claim goes before": {class: daily, claim: map[string]string{own + "keep": "5", own + "max-age": "36h", own + "class": "good"}, keep: 5, maxAge: 36 * time.Hour, snapshots: "good"},
		"not for this claim":    {class: daily, claim: map[string]string{own + "schedule": ""}},
		"any age":               {class: daily, claim: map[string]string{own + "max-age": "", own + "class": ""}, keep: 3},
		"only how many":         {claim: map[string]string{own + "keep": "5"}},
	} {
		t.Run(name, func(t *testing.T) {
			claim, class := newClaim(), newClass()
			claim.Annotations, class.Parameters = c.claim, c.class
			s, err := scheduleOf(claim, class)
			if err != nil || (s != nil) != (c.keep > 0) {
				t.Fatalf("got %+v, error %v", s, err)
			}
			if s == nil {
				return
			}
			snapshots := ""
			if s.class != nil {
				snapshots = *s.class
			}
			if s.keep != c.keep || s.maxAge != c.maxAge || snapshots != c.snapshots {
				t.Errorf("got %+v of class %q, want %+v", s, snapshots, c)
			}
		})
	}
}

func TestBadSchedules(t *testing.T) {
	const example = `is not a schedule like "0 3 * * *", each day at 3:00 UTC: `
	for _, c := range []struct{ annotation, parameter, value, want string }{
		{"schedule", "snapshotSchedule", "0 3 * *", example + "expected exactly 5 fields, found 4"},
		{"schedule", "snapshotSchedule", "often", example + "expected exactly 5 fields"},
		{"schedule", "snapshotSchedule", "61 3 * * *", example + "end of range (61) above maximum (59)"},
		{"schedule", "snapshotSchedule", "@every 1s", example + "@every counts from when something began"},
		{"schedule", "snapshotSchedule", "@never", example + "unrecognized descriptor"},
		{"schedule", "snapshotSchedule", "0 0 30 2 *", example + "there is no such day"},
		{"schedule", "snapshotSchedule", "TZ=UTC", example + "only a time zone"},
		{"schedule", "snapshotSchedule", "CRON_TZ=", example + "only a time zone"},
		{"schedule", "snapshotSchedule", "TZ=../../etc/passwd 0 3 * * *", example + "provided bad location"},
		{"keep", "snapshotKeep", "0", "is not a number of snapshots above 0"},
		{"keep", "snapshotKeep", "many", "is not a number of snapshots above 0"},
		{"max-age", "snapshotMaxAge", "-1h", "is not an age like 30d or 12h30m"},
		{"max-age", "snapshotMaxAge", "1.5d", "is not an age like 30d or 12h30m"},
		{"max-age", "snapshotMaxAge", "99999d", "is not an age like 30d or 12h30m"},
		{"class", "snapshotClass", "a/b", "is not the name of a VolumeSnapshotClass"},
	} {
		claim, class := newClaim(), newClass()
		claim.Annotations = map[string]string{"berth.storage/snapshot-schedule": "@daily", "berth.storage/snapshot-" + c.annotation: c.value}
		_, err := scheduleOf(claim, nil)
		if want := "annotation berth.storage/snapshot-" + c.annotation + ": \"" + c.value + "\" " + c.want; !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		// A class says so before there is a volume.
		class.Parameters = map[string]string{c.parameter: c.value}
		pool, _ := newPool("local")
		_, err = parseParameters(class.Parameters, pool)
		if want := "StorageClass parameter " + c.parameter + ": \"" + c.value + "\" " + c.want; !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	claim := newClaim()
	claim.Annotations = map[string]string{"berth.storage/snapshot-shedule": "@daily"}
	for what, check := range map[string]func() error{
		"when it is bound": func() error { _, err := scheduleOf(claim, nil); return err },
		"before":           func() error { _, err := wishes(claim); return err },
	} {
		if err := check(); err == nil || !strings.Contains(err.Error(), `annotation berth.storage/snapshot-shedule is unknown, did you mean "snapshot-schedule"?`) {
			t.Errorf("misspelt, %s: %v", what, err)
		}
	}
}

// Without a time zone of its own a schedule is in UTC.
func TestScheduleInTheClocksTimeZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // at midnight, 2000-01-01
		times, err := parseTimes("0 3 * * *")
		if err != nil {
			t.Fatal(err)
		}
		here := time.FixedZone("here", 5*3600)
		_, next := (&schedule{times: times}).due(time.Now().In(here), time.Now().In(here))
		if want := parseTime(t, "2000-01-01 03:00:00"); !next.Equal(want) {
			t.Errorf("next at %s, want %s whatever the clock's time zone", next, want)
		}
	})
}

func TestNamesOfScheduledSnapshots(t *testing.T) {
	at := parseTime(t, "2026-01-06 03:00:00").In(time.FixedZone("here", 3600))
	if got := scheduledName("data", at); got != "data-20260106-0300" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("a-.", 84)
	names := []string{scheduledName(long+"x", at), scheduledName(long+"y", at), scheduledName(long+"x", at.Add(time.Minute))}
	for _, name := range names {
		if problems := validation.IsDNS1123Subdomain(strings.ReplaceAll(name, "a-.", "abc")); len(problems) > 0 || !strings.HasPrefix(name, "a-.a") {
			t.Errorf("%s: %v", name, problems)
		}
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != 3 {
		t.Errorf("two are the same: %v", names)
	}
}
