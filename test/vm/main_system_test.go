//go:build system

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// shared is the guest of those tests that need none of their own.
var shared *Guest

func TestMain(m *testing.M) {
	if os.Getenv(ownerVariable) != "" {
		os.Exit(own())
	}
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	shared, err = Start(context.Background(), Options{Log: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.Stop()) }()
	return m.Run(), nil
}

// run runs a program in a guest, or where the test is, which must end well.
func run(t *testing.T, r Runner, args ...string) string {
	t.Helper()
	out, err := r.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until waits until done says so.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute:", what)
		}
	}
}
