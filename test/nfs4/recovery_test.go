package nfs4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test on a fake clock, with a limit in case a client never stops
// trying.
func bubble(t *testing.T, test func(context.Context, *testing.T, *fakeServer)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		test(ctx, t, newFakeServer(t))
	})
}

// session uses every operation and returns what it saw.
func session(ctx context.Context, c *Client) (seen []string, err error) {
	note := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	var f *File
	part := make([]byte, 20)
	steps := []func() error{
		func() error { return c.Mkdir(ctx, "/dir", 0o700) },
		func() (err error) { f, err = c.Create(ctx, "/new", 0o640); return err },
		func() error { _, err := f.WriteAt(ctx, []byte("one, two, three, "), 0); return err },
		func() error { _, err := f.WriteAt(ctx, []byte("2"), 5); return err },
		func() error { return f.Sync(ctx) },
		func() error { _, err := f.WriteAt(ctx, []byte("four"), 17); return err },
		func() error {
			n, err := f.ReadAt(ctx, part, 5)
			note("read %q", part[:n])
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		},
		func() error { return f.Truncate(ctx, 17) },
		func() error { _, err := f.WriteAt(ctx, []byte("4"), 17); return err },
		func() error { return f.Close(ctx) },
		func() error { return c.Rename(ctx, "/new", "/file") },
		func() error { return c.Chmod(ctx, "/file", 0o600) },
		func() error { return c.WriteFile(ctx, "/other", []byte("other"), 0o644) },
		func() error {
			data, err := c.ReadFile(ctx, "/file")
			note("content %q", data)
			return err
		},
		func() error {
			entries, err := c.ReadDir(ctx, "/")
			for _, e := range entries {
				note("%s %v %o %d", e.Name, e.Type, e.Mode, e.Size)
			}
			return err
		},
		func() error { return c.Remove(ctx, "/dir") },
		func() error {
			_, err := c.Stat(ctx, "/dir")
			note("gone: %v", errors.Is(err, fs.ErrNotExist))
			return nil
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return seen, fmt.Errorf("step %d: %w", i, err)
		}
	}
	return seen, nil
}

// TestFaultAtEveryCall runs the session once for each call it makes and each
// kind of fault, and wants the same outcome every time.
func TestFaultAtEveryCall(t *testing.T) {
	want := []string{
		`read "2wo, three, four"`,
		`content "one, 2wo, three, 4"`,
		"dir d 755 0", "file - 600 18", "other - 644 5",
		"gone: true",
	}
	run := func(t *testing.T, kind fault, at int) (calls int) {
		bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
			s.inject = func(call int) fault {
				if call == at {
					return kind
				}
				return noFault
			}
			c := s.mount(Options{})
			defer c.Close()
			got, err := session(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			if got := s.content("file"); got != "one, 2wo, three, 4" {
				t.Errorf("stable content %q", got)
			}
			if n := s.openCount(); n != 0 {
				t.Errorf("%d opens left", n)
			}
			calls = s.calls
		})
		return calls
	}
	calls := run(t, noFault, 0)
	for kind := loseRequest; kind <= restartAfter; kind++ {
		for at := 1; at <= calls; at++ {
			t.Run(fmt.Sprintf("%v/%d", kind, at), func(t *testing.T) { run(t, kind, at) })
		}
	}
}

// TestIdle wants a client that does nothing to claim its file in time.
func TestIdle(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		f, err := c.Create(ctx, "/file", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		s.restart(fakeDowntime)
		time.Sleep(fakeDowntime + fakeLease)
		if n := s.openCount(); n != 1 {
			t.Errorf("%d opens after the restart, want 1", n)
		}
		time.Sleep(time.Hour)
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestReclaimAtOnce wants the first call after a restart, whatever it is, to
// claim the open files back.
func TestReclaimAtOnce(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		f, err := c.Create(ctx, "/file", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		s.restart(0)
		if _, err := c.Stat(ctx, "/"); err != nil {
			t.Fatal(err)
		}
		if n := s.openCount(); n != 1 {
			t.Errorf("%d opens after the restart, want 1", n)
		}
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestWriteVerifier makes the server lose data, but not its state: only the
// write verifier tells, in the next WRITE or in COMMIT.
func TestWriteVerifier(t *testing.T) {
	for _, test := range []struct {
		name    string
		second  string
		read    bool
		content string
	}{
		{"noticed in COMMIT", "", false, "first"},
		{"noticed in WRITE", "2", false, "2irst"},
		{"noticed in WRITE, before a READ", "2", true, "2irst"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
				c := s.mount(Options{})
				defer c.Close()
				f, err := c.Create(ctx, "/file", 0o600)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(ctx, []byte("first"), 0); err != nil {
					t.Fatal(err)
				}
				s.loseData()
				if _, err := f.WriteAt(ctx, []byte(test.second), 0); err != nil {
					t.Fatal(err)
				}
				if test.read {
					got := make([]byte, len(test.content))
					if _, err := f.ReadAt(ctx, got, 0); string(got) != test.content {
						t.Errorf("read %q, %v, want %q", got, err, test.content)
					}
				}
				if err := f.Close(ctx); err != nil {
					t.Error(err)
				}
				if got := s.content("file"); got != test.content {
					t.Errorf("content %q, want %q", got, test.content)
				}
			})
		})
	}
}

// TestTooLate keeps the client away until the grace period is over: then it
// opens the file by name, if the name still means that file.
func TestTooLate(t *testing.T) {
	for _, test := range []struct {
		name    string
		replace func(*fakeServer)
		want    error
	}{
		{"same file", func(*fakeServer) {}, nil},
		{"removed", func(s *fakeServer) { delete(s.names, "file") }, ErrNoEnt},
		{"replaced", func(s *fakeServer) { s.names["file"] = s.newFile(fakeFile{}) }, ErrStale},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
				c := s.mount(Options{})
				defer c.Close()
				f, err := c.Create(ctx, "/file", 0o600)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(ctx, []byte("data"), 0); err != nil {
					t.Fatal(err)
				}
				s.restart(fakeDowntime)
				s.mu.Lock()
				s.inGrace = time.Now()
				test.replace(s)
				s.mu.Unlock()
				if err := f.Sync(ctx); !errors.Is(err, test.want) {
					t.Errorf("Sync: %v, want %v", err, test.want)
				}
				if err := f.Close(ctx); !errors.Is(err, test.want) {
					t.Errorf("Close: %v, want %v", err, test.want)
				}
				if got := s.content("file"); test.want == nil && got != "data" {
					t.Errorf("content %q", got)
				}
			})
		})
	}
}

// TestStateRefused gives one operation a passing fault.
func TestStateRefused(t *testing.T) {
	for _, test := range []struct {
		op     opcode
		status Status
		times  int
	}{
		{opWrite, ErrDelay, 3},
		{opWrite, ErrExpired, 1},
		{opWrite, ErrBadStateID, 1},
		{opCommit, ErrDelay, 3},
		{opOpen, ErrDelay, 3},
		{opOpen, ErrBadSeqID, 1},
		{opOpenConfirm, ErrBadStateID, 1},
		{opRead, ErrOldStateID, 1},
		{opSetClientIDConfirm, ErrStaleClientID, 1},
	} {
		t.Run(fmt.Sprint(test.op, test.status), func(t *testing.T) {
			bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
				left := test.times
				s.refuse = func(op opcode) Status {
					if op == test.op && left > 0 {
						left--
						return test.status
					}
					return OK
				}
				c := s.mount(Options{})
				defer c.Close()
				if _, err := session(ctx, c); err != nil {
					t.Error(err)
				}
				if left > 0 {
					t.Error("never refused")
				}
			})
		})
	}
}

// TestOpenRevoked takes the open away from a client whose lease is good.
func TestOpenRevoked(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		f, err := c.Create(ctx, "/file", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		clear(s.opens)
		s.mu.Unlock()
		if _, err := f.WriteAt(ctx, []byte("data"), 0); err != nil {
			t.Error(err)
		}
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
		if got := s.content("file"); got != "data" {
			t.Errorf("content %q", got)
		}
	})
}

// TestNoEcho loses a request of the client's own before a MKDIR. That the
// directory exists is then news, not an echo.
func TestNoEcho(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		if err := c.Mkdir(ctx, "/dir", 0o700); err != nil {
			t.Fatal(err)
		}
		c.disconnect()
		lost := false
		s.inject = func(int) fault {
			if !lost {
				lost = true
				return loseReply
			}
			return noFault
		}
		if err := c.Mkdir(ctx, "/dir", 0o700); !errors.Is(err, fs.ErrExist) || !lost {
			t.Errorf("got %v, want %v", err, ErrExist)
		}
	})
}

// TestGivesUp wants an end to faults that do not pass.
func TestGivesUp(t *testing.T) {
	for _, status := range []Status{ErrBadStateID, ErrExpired, ErrStaleStateID} {
		bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
			s.refuse = func(op opcode) Status {
				if op == opWrite {
					return status
				}
				return OK
			}
			c := s.mount(Options{})
			defer c.Close()
			err := c.WriteFile(ctx, "/file", []byte("data"), 0o600)
			if !errors.Is(err, status) {
				t.Errorf("got %v, want %v", err, status)
			}
		})
	}
}

// TestTCP reaches the server through a socket, as the other tests do not.
// TestCloseAgain interrupts a Close, which must leave the file to be closed.
// TestManyGoroutines shares a client while the server restarts.
// TestOwnersAreReused wants only the first OPEN to be confirmed.
// TestUncertainOwner loses the reply to an OPEN and then fails before OPEN. The
// server has counted a request that the client has not, so that the next file
// must have another owner: it would get the old reply.
