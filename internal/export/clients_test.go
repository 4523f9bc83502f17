package export_test

import (
	"strings"
	"testing"

	"github.com/berth-storage/berth/internal/export"
)

func TestParseClients(t *testing.T) {
	for _, c := range []struct {
		words, want string
		err         string // in the error; "" for none
	}{
		{"", "*", ""},
		{"*", "*", ""},
		{"10.0.0.0/8", "10.0.0.0/8", ""},
		{"10.1.2.3 192.168.0.0/16 fd00::/8 fd00::1", "10.1.2.3,192.168.0.0/16,fd00::/8,fd00::1", ""},
		{"* 10.0.0.0/8", "", "stands alone"},
		{"10.1.0.0/8", "", "10.0.0.0/8 is meant"},
		{"10.0.0.0/33", "", "not a network"},
		{"node1", "", "neither"},
		{"fe80::1%eth0", "", "neither"},
		{"10.0.0.1(rw)", "", "neither"},
		{`10.0.0.1"}`, "", "neither"},
		{"10.0.0.0/8;", "", "not a network"},
	} {
		got, err := export.ParseClients(strings.Fields(c.words))
		switch {
		case c.err == "" && (err != nil || got.String() != c.want):
			t.Errorf("ParseClients(%q): got %s and error %v, want %s", c.words, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("ParseClients(%q): got error %v, want one with %q", c.words, err, c.err)
		}
	}
}
