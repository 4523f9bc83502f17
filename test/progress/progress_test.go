package progress

import (
	"fmt"
	"strings"
	"testing"
)

func TestLastLines(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"a", "a"},
		{"a\n", "a\n"},
		{"a\nb\n", "a\nb\n"},
		{"a\nb\nc\n", "b\nc\n"},
		{"a\nb\nc", "b\nc"},
	} {
		if got := string(Last([]byte(test.text), 2)); got != test.want {
			t.Errorf("Last(%q, 2) = %q, want %q", test.text, got, test.want)
		}
	}
}

func TestLinesAreCountedAcrossWrites(t *testing.T) {
	var l Lines
	for i := range 30 {
		fmt.Fprintf(&l, "package")
		fmt.Fprintf(&l, " %d\n", i)
	}
	if l.Count() != 30 {
		t.Errorf("count = %d, want 30", l.Count())
	}
	if got := l.Tail(); !strings.HasPrefix(got, "package 10\n") || !strings.HasSuffix(got, "package 29\n") {
		t.Errorf("tail = %q, want the packages 10 to 29", got)
	}
}
