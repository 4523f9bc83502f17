package main

import (
	"errors"
	"flag"
	"path/filepath"
	"strings"
	"testing"
)

// devcluster runs the command and returns what it prints.
func devcluster(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var output strings.Builder
	err := run(t.Context(), args, &output, &output)
	return output.String(), err
}

func TestCommandLine(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, test := range []struct {
		args, prints, fails string
	}{
		{"", "usage:", "no command"},
		{"help", "usage:", ""},
		{"sink", "usage:", `no command is called "sink"`},
		{"down now", "", `"now" is not a flag`},
		{"down -dir " + none, "nothing runs in " + none, ""},
		{"down -purge -dir " + none, "nothing runs in " + none, ""},
		{"kubectl-path -dir " + none, "", "start one with up"},
	} {
		got, err := devcluster(t, strings.Fields(test.args)...)
		if !strings.Contains(got, test.prints) {
			t.Errorf("%q prints %q, want %q", test.args, got, test.prints)
		}
		if test.fails == "" && err != nil {
			t.Errorf("%q fails: %v", test.args, err)
		}
		if test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
			t.Errorf("%q: error %v, want %q", test.args, err, test.fails)
		}
	}
	if got, err := devcluster(t, "up", "-h"); !errors.Is(err, flag.ErrHelp) || !strings.Contains(got, "-kcm-arg") {
		t.Errorf("up -h: %v, prints %q", err, got)
	}
}
