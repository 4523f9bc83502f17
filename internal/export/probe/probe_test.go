package probe_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export/probe"
)

// serve answers each call by words, or not at all if there are none. It gives the
// address and where the calls come from.
func serve(t *testing.T, words ...uint32) (string, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	callers := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			callers <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			go func() {
				defer conn.Close()
				head := make([]byte, 4)
				if _, err := io.ReadFull(conn, head); err != nil {
					return
				}
				length := binary.BigEndian.Uint32(head) &^ (1 << 31)
				if _, err := io.CopyN(io.Discard, conn, int64(length)); err != nil {
					return
				}
				if len(words) == 0 {
					_, _ = io.Copy(io.Discard, conn) // until the caller has enough
					return
				}
				answer := binary.BigEndian.AppendUint32(nil, 1<<31|uint32(4*len(words)))
				for _, word := range words {
					answer = binary.BigEndian.AppendUint32(answer, word)
				}
				_, _ = conn.Write(answer)
			}()
		}
	}()
	return l.Addr().String(), callers
}

const xid = 0x42657274

func TestNull(t *testing.T) {
	for _, c := range []struct {
		name  string
		words []uint32
		want  string
	}{
		{"success", []uint32{xid, 1, 0, 0, 0, 0}, ""},
		{"another call's answer", []uint32{7, 1, 0, 0, 0, 0}, "unexpected answer"},
		{"denied", []uint32{xid, 1, 1, 1, 1, 0}, "unexpected answer"},
		{"no such version", []uint32{xid, 1, 0, 0, 0, 2, 3, 3}, "unexpected answer"},
		{"cut off", []uint32{xid, 1}, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, _ := serve(t, c.words...)
			err := probe.Null(t.Context(), address, time.Minute)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

func TestSilentServer(t *testing.T) {
	address, _ := serve(t)
	if err := probe.Null(t.Context(), address, 50*time.Millisecond); err == nil {
		t.Error("no answer, and no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := probe.Null(ctx, address, time.Hour); err == nil {
		t.Error("no answer, and no error after the end of the context")
	}
}

func TestCaller(t *testing.T) {
	for name, words := range map[string][]uint32{
		"answered": {xid, 1, 0, 0, 0, 0, 0, 0, 0},
		"denied":   {xid, 1, 1, 1, 1},
	} {
		address, callers := serve(t, words...)
		if err := probe.Caller(t.Context(), address, "127.9.8.7", time.Minute); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := <-callers; got != "127.9.8.7" {
			t.Errorf("the call came from %s", got)
		}
	}
	address, _ := serve(t, 7, 1)
	if err := probe.Caller(t.Context(), address, "127.0.0.1", time.Minute); err == nil {
		t.Error("another call's answer was taken for one")
	}
}
