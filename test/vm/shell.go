package vm

import (
	"net"
	"testing"
)

// Sh runs a shell script on this machine, which inside of a guest is the guest, and gives what it
// printed. Its arguments are args; the first command that fails ends it, and the test.
func Sh(t testing.TB, script string, args ...string) string {
	t.Helper()
	out, err := Here{}.Run(t.Context(), append([]string{"sh", "-ec", script, "sh"}, args...)...)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return out
}

// FreePort is a port of 127.0.0.1 that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
