package nfs4

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

func TestServerAway(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		soft := s.mount(Options{Soft: true})
		defer soft.Close()
		hard := s.mount(Options{})
		defer hard.Close()
		s.restart(time.Hour)

		begin := time.Now()
		if _, err := soft.Stat(ctx, "/"); err == nil || time.Since(begin) > time.Minute {
			t.Errorf("soft: %v after %v", err, time.Since(begin))
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := hard.Stat(short, "/"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hard: %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := hard.Stat(ctx, "/"); err != nil {
			t.Errorf("hard, when the server is back: %v", err)
		}
	})
}

func TestCloseInterrupts(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		s.restart(time.Hour)
		time.AfterFunc(time.Second, func() { c.Close() })
		if _, err := c.Stat(ctx, "/"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
	})
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newFakeServer(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			wg.Go(func() { s.serve(conn) })
		}
	})
	defer wg.Wait()
	defer l.Close()

	if err := Null(t.Context(), l.Addr().String()); err != nil {
		t.Error(err)
	}
	c, err := Dial(t.Context(), l.Addr().String(), Options{LocalIP: "127.0.0.1", Soft: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fh, err := c.FileHandle(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	want := Attr{
		Type: TypeDirectory, Mode: 0o755, FSID: FSID{7, 1}, FileID: 42,
		Owner: "1000", Group: "1000", SpaceTotal: 42,
	}
	if got, err := c.StatHandle(t.Context(), fh); got != want || err != nil {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestCloseAgain(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		f, err := c.Create(ctx, "/file", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		s.restart(time.Minute)
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := f.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := f.Close(ctx); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v, want %v", err, fs.ErrClosed)
		}
		if n := s.openCount(); n != 0 {
			t.Errorf("%d opens left", n)
		}
	})
}

func TestManyGoroutines(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		s.inject = func(call int) fault {
			switch {
			case call == 25 || call == 80:
				return restartAfter
			case call%7 == 0:
				return loseReply
			}
			return noFault
		}
		c := s.mount(Options{})
		defer c.Close()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				name := fmt.Sprint("/file", i)
				want := fmt.Sprintf("content of file %d, longer than a WRITE", i)
				if err := c.WriteFile(ctx, name, []byte(want), 0o600); err != nil {
					t.Error(err)
				}
				got, err := c.ReadFile(ctx, name)
				if err != nil || string(got) != want {
					t.Errorf("read %q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if n := s.openCount(); n != 0 {
			t.Errorf("%d opens left", n)
		}
	})
}

func TestOwnersAreReused(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		for range 3 {
			if err := c.WriteFile(ctx, "/file", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.executed[opOpenConfirm]; n != 1 {
			t.Errorf("%d OPEN_CONFIRM, want 1", n)
		}
	})
}

func TestUncertainOwner(t *testing.T) {
	bubble(t, func(ctx context.Context, t *testing.T, s *fakeServer) {
		c := s.mount(Options{})
		defer c.Close()
		if err := c.WriteFile(ctx, "/a", []byte("a"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteFile(ctx, "/b", []byte("b"), 0o600); err != nil {
			t.Fatal(err)
		}
		lost := false
		s.inject = func(int) fault {
			if !lost {
				lost = true
				return loseReply
			}
			return noFault
		}
		refused := false
		s.refuse = func(op opcode) Status {
			if op == opPutRootFH && lost && s.executed[opRenew] > 0 && !refused {
				refused = true
				return ErrAccess
			}
			return OK
		}
		if _, err := c.Open(ctx, "/a"); !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("got %v, want %v", err, ErrAccess)
		}
		if got, err := c.ReadFile(ctx, "/b"); string(got) != "b" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestOpenFlags(t *testing.T) {
	if _, _, err := openFlags(os.O_RDWR|os.O_CREATE|os.O_EXCL, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("O_EXCL: %v", err)
	}
}
