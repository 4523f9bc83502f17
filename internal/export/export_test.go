package export_test

import (
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/export"
)

func TestFSIDIsAUUIDThatStays(t *testing.T) {
	// Written down: if this changes, every client's file handles go stale.
	const want = "be131624-4b02-c581-495d-4d2414c816d9"
	if got := export.NewFSID("local/pvc-1").String(); got != want {
		t.Errorf("the FSID of local/pvc-1 is %s, want %s", got, want)
	}
	if export.NewFSID("local/pvc-1") == export.NewFSID("local/pvc-2") {
		t.Error("two volumes have one FSID")
	}
}

func TestFSIDTextRoundTrip(t *testing.T) {
	want := export.NewFSID("x")
	text, err := want.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got export.FSID
	if err := got.UnmarshalText(text); err != nil || got != want {
		t.Errorf("%s was read as %s, %v", text, got, err)
	}
	if err := got.UnmarshalText([]byte(strings.ToUpper(string(text)))); err != nil || got != want {
		t.Errorf("%s in capitals was read as %s, %v", text, got, err)
	}
}

func TestFSIDRefusesWhatIsNotAUUID(t *testing.T) {
	for _, text := range []string{
		"", "-", "1", "00000000-0000-0000-0000-00000000000", "00000000-0000-0000-0000-0000000000000",
		"00000000-0000-0000-0000-0000000000000000", "g0000000-0000-0000-0000-000000000000", "00000000 0000 0000 0000 000000000000",
	} {
		before := export.NewFSID("before")
		got := before
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %s", text, got)
		} else if got != before {
			t.Errorf("refusing %q changed the value to %s", text, got)
		}
	}
}

func TestNumberOfAnFSID(t *testing.T) {
	for text, want := range map[string]uint16{
		"00000000-0000-0001-0000-000000000001": 1,
		"00000000-0000-0098-0000-000000000098": 152,
		"00000000-0000-ffff-0000-00000000ffff": 65535,
		"00000000-0000-0000-0000-000000000000": 0, // to the kernel's server fsid=0 is the root of all
		"00000000-0001-0000-0000-000000010000": 0,
		"00000000-0000-0001-0000-000000000002": 0,
		"be131624-4b02-c581-495d-4d2414c816d9": 0,
	} {
		var f export.FSID
		if err := f.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, ok := f.Number(); got != want || ok != (want != 0) {
			t.Errorf("%s stands for %d, %t; want %d", text, got, ok, want)
		}
	}
}

func FuzzFSID(f *testing.F) {
	f.Add("00000000-0000-0000-0000-000000000000")
	f.Add("0123456789abcdefABCDEF0123456789")
	f.Add("-0-1-2-")
	f.Fuzz(func(t *testing.T, text string) {
		var first, second export.FSID
		if first.UnmarshalText([]byte(text)) != nil {
			return
		}
		if got, want := strings.ReplaceAll(first.String(), "-", ""), strings.ToLower(strings.ReplaceAll(text, "-", "")); got != want {
			t.Errorf("%q was read as %s", text, first)
		}
		if err := second.UnmarshalText([]byte(first.String())); err != nil || second != first {
			t.Errorf("%s was read as %s, %v", first, second, err)
		}
	})
}

func TestFSIDOfANumber(t *testing.T) {
	if got, want := export.NumberFSID(258).String(), "00000000-0000-0102-0000-000000000102"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
