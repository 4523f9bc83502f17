package main

import (
	"io"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const pkg = `"Package":"github.com/berth-storage/berth/p"`
	cases := map[string]struct {
		events []string
		counts string
		shows  []string
	}{
		"subtests count with their test": {
			events: []string{
				`{"Action":"run",` + pkg + `,"Test":"TestA"}`,
				`{"Action":"pass",` + pkg + `,"Test":"TestA/one","Elapsed":9}`,
				`{"Action":"pass",` + pkg + `,"Test":"TestA","Elapsed":9}`,
				`{"Action":"pass",` + pkg + `,"Elapsed":9.5}`,
			},
			counts: "1 passed, 0 failed",
			shows:  []string{"  pass p TestA (9.0s)\n", "pass p: 1 tests (9.5s)\n", "    9.0s  p TestA\n"},
		},
		"a failed test shows the output of its subtests": {
			events: []string{
				`{"Action":"output",` + pkg + `,"Test":"TestA/one","Output":"got 1, want 2\n"}`,
				`{"Action":"fail",` + pkg + `,"Test":"TestA/one"}`,
				`{"Action":"fail",` + pkg + `,"Test":"TestA"}`,
				`{"Action":"output",` + pkg + `,"Test":"TestB","Output":"all is well\n"}`,
				`{"Action":"pass",` + pkg + `,"Test":"TestB"}`,
				`{"Action":"fail",` + pkg + `}`,
			},
			counts: "1 passed, 1 failed",
			shows:  []string{"=== failed: p TestA\ngot 1, want 2\n"},
		},
		"a package that does not build is one failure": {
			events: []string{
				`{"Action":"build-output","ImportPath":"p [p.test]","Output":"undefined: x\n"}`,
				`{"Action":"build-fail","ImportPath":"p [p.test]"}`,
				`{"Action":"fail",` + pkg + `,"FailedBuild":"p [p.test]"}`,
			},
			counts: "0 passed, 1 failed",
			shows:  []string{"=== failed: p\nundefined: x\n"},
		},
		"a test that runs twice counts once": {
			events: []string{
				`{"Action":"pass",` + pkg + `,"Test":"TestA"}`,
				`{"Action":"pass",` + pkg + `,"Test":"TestB"}`,
				`{"Action":"pass",` + pkg + `}`,
				`{"Action":"pass",` + pkg + `,"Test":"TestA"}`,
				`{"Action":"fail",` + pkg + `,"Test":"TestB"}`,
				`{"Action":"fail",` + pkg + `,"Elapsed":3}`,
			},
			counts: "1 passed, 1 failed",
			shows:  []string{"fail p: 2 tests (3.0s)\n"},
		},
		"a test that runs when the binary dies has failed": {
			events: []string{
				`{"Action":"run",` + pkg + `,"Test":"TestA"}`,
				`{"Action":"fail",` + pkg + `}`,
			},
			counts: "0 passed, 1 failed",
			shows:  []string{"=== failed: p TestA\n"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out, io.Discard)
			events := make(chan event)
			go func() {
				decode(strings.NewReader(strings.Join(c.events, "\n")), events)
				close(events)
			}()
			r.follow(events)
			if got := r.finish(); got != c.counts {
				t.Errorf("counts: got %q, want %q", got, c.counts)
			}
			for _, want := range c.shows {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in the report:\n%s", want, out.String())
				}
			}
		})
	}
}
