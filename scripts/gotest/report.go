package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	module = "github.com/berth-storage/berth/"
	// slow is how long a test runs to get a line of its own.
	slow = 2 * time.Second
	// slowest is how many tests the list at the end has.
	slowest = 10
	// shownLines is how much of a failed test's output is printed; the log has the rest.
	shownLines = 200
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // instead of Package in build-output and build-fail
	FailedBuild                   string // in a package's fail: the ImportPath that did not build
	Elapsed                       float64
}

// decode sends what it reads from in to events.
func decode(in io.Reader, events chan<- event) {
	lines := bufio.NewReader(in) // not a Scanner: a test's output line has no length limit
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil {
				e = event{Action: "output", Output: line}
			}
			events <- e
		}
		if err != nil {
			return
		}
	}
}

// result is one top-level test, or, with an empty test, what a package printed outside its tests.
type result struct {
	pkg, test string
	elapsed   time.Duration
	output    strings.Builder
	last      string // line of it
}

func (r *result) String() string {
	return strings.TrimSpace(strings.TrimPrefix(r.pkg, module) + " " + r.test)
}

// report counts top-level tests, keeps the output of those that run or failed, and prints what a reader wants to know.
type report struct {
	out, log io.Writer

	running  map[string]*result // by package and top-level test
	builds   map[string]string  // compiler output by import path
	finished []*result
	failures []*result
	inPkg    map[string]int // tests finished by package
	badPkg   map[string]bool

	logged  string          // the package whose output is the last in the log
	passed  map[string]bool // by package and test
	failed  int
	skipped int
}

func newReport(out, log io.Writer) *report {
	return &report{
		out: out, log: log,
		running: map[string]*result{}, builds: map[string]string{}, inPkg: map[string]int{}, badPkg: map[string]bool{},
		passed: map[string]bool{},
	}
}

// add takes one event and tells whether it printed something.
func (r *report) add(e event) (printed bool) {
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] += e.Output
		fmt.Fprint(r.log, e.Output)
		return false
	case "output":
		if e.Package != r.logged { // others have printed in between
			fmt.Fprintf(r.log, "=== PKG   %s\n", e.Package)
			r.logged = e.Package
		}
		fmt.Fprint(r.log, e.Output)
		own := r.result(e)
		own.output.WriteString(e.Output)
		if line := strings.TrimSpace(e.Output); line != "" {
			own.last = line
		}
		return false
	case "run":
		r.result(e)
		return false
	case "pass", "fail", "skip":
		if strings.Contains(e.Test, "/") {
			return false // a subtest counts with its test
		}
		if e.Test == "" {
			return r.endPackage(e)
		}
		return r.endTest(e)
	}
	return false
}

// result is where an event of a test, a subtest or a package belongs.
func (r *report) result(e event) *result {
	top, _, _ := strings.Cut(e.Test, "/")
	key := e.Package + " " + top
	if r.running[key] == nil {
		r.running[key] = &result{pkg: e.Package, test: top}
	}
	return r.running[key]
}

func (r *report) endTest(e event) (printed bool) {
	t := r.result(e)
	delete(r.running, e.Package+" "+e.Test)
	t.elapsed = time.Duration(e.Elapsed * float64(time.Second))
	r.finished = append(r.finished, t)
	r.inPkg[e.Package]++
	switch e.Action {
	case "pass":
		r.passed[e.Package+" "+e.Test] = true
	case "skip":
		r.skipped++
	case "fail":
		r.fail(t)
	}
	if e.Action == "pass" {
		t.output.Reset() // nobody will read it
		if t.elapsed < slow {
			return false
		}
	}
	fmt.Fprintf(r.out, "  %-4s %s (%.1fs)\n", e.Action, t, t.elapsed.Seconds())
	return true
}

func (r *report) fail(t *result) {
	r.failed++
	delete(r.passed, t.pkg+" "+t.test) // it may have passed without the tag system
	r.failures = append(r.failures, t)
	r.badPkg[t.pkg] = true
}

func (r *report) endPackage(e event) (printed bool) {
	own := r.result(e)
	own.output.WriteString(r.builds[e.FailedBuild])
	delete(r.running, e.Package+" ")
	if e.Action == "fail" {
		// Tests without a result were running when the test binary died.
		for key, t := range r.running {
			if t.pkg == e.Package {
				delete(r.running, key)
				r.fail(t)
			}
		}
		// A package also fails without a failing test: it does not build, or its TestMain fails.
		if !r.badPkg[e.Package] {
			r.fail(own)
		}
	}
	if r.inPkg[e.Package] == 0 && e.Action != "fail" {
		return false // no test files
	}
	fmt.Fprintf(r.out, "%-4s %s: %d tests (%.1fs)\n", e.Action, own, r.inPkg[e.Package], e.Elapsed)
	delete(r.inPkg, e.Package)
	return true
}

// stillRunning names what runs, so that a slow test and a hanging one can be told apart.
func (r *report) stillRunning() {
	var tests []string
	for _, t := range r.running {
		if t.test != "" {
			tests = append(tests, fmt.Sprintf("  ...  %s; last output: %s\n", t, t.last))
		}
	}
	if len(tests) == 0 {
		fmt.Fprintln(r.out, "  ...  building or between tests")
		return
	}
	slices.Sort(tests)
	fmt.Fprint(r.out, strings.Join(tests, ""))
}

// finish prints failures, the slowest tests and the counts, and returns the counts.
func (r *report) finish() string {
	for _, t := range r.failures {
		fmt.Fprintf(r.out, "\n=== failed: %s\n%s", t, lastLines(t.output.String(), shownLines))
	}
	slices.SortStableFunc(r.finished, func(a, b *result) int { return cmp.Compare(b.elapsed, a.elapsed) })
	fmt.Fprintln(r.out, "\nslowest tests:")
	for _, t := range r.finished[:min(slowest, len(r.finished))] {
		fmt.Fprintf(r.out, "%7.1fs  %s\n", t.elapsed.Seconds(), t)
	}
	if r.skipped > 0 {
		fmt.Fprintf(r.out, "%d skipped\n", r.skipped)
	}
	if r.failed > 0 {
		fmt.Fprintln(r.out, "\nfailed:")
		for _, t := range r.failures {
			fmt.Fprintln(r.out, "  "+t.String())
		}
	}
	summary := fmt.Sprintf("%d passed, %d failed", len(r.passed), r.failed)
	fmt.Fprintf(r.out, "\n%s\n", summary)
	return summary
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) <= n {
		return text
	}
	return fmt.Sprintf("(%d lines left out, see %s)\n", len(lines)-n, logFile) + strings.Join(lines[len(lines)-n:], "")
}
