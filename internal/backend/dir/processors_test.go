package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestIdleProcessors(t *testing.T) {
	var up, idle float64
	p := processors{read: func() (float64, float64, error) { return up, idle, nil }}
	for _, look := range []struct {
		at, idle float64
		want     bool
	}{
		{1000, 900, false},       // since boot: that says nothing of now
		{1000.05, 900.05, false}, // too short to tell
		{1000.2, 900.2, true},
		{1000.25, 900.2, true}, // too short
		{1000.4, 900.2, false},
		{1001.4, 900.6, false}, // of one second 0.4
		{1002.4, 901.2, true},
		{1003.4, 904.2, true}, // of several processors
	} {
		up, idle = look.at, look.idle
		if got := p.areIdle(); got != look.want {
			t.Errorf("at %v, with %v s of idleness: %v, want %v", up, idle, got, look.want)
		}
	}
	p.read = func() (float64, float64, error) { return 0, 0, errors.New("there is no /proc") }
	if !p.areIdle() {
		t.Error("where nothing tells they are not idle")
	}
}

func TestReadUptime(t *testing.T) {
	up, idle, err := readUptime()
	if err != nil || up <= 0 || idle < 0 {
		t.Errorf("up for %v s, idle for %v s, %v", up, idle, err)
	}
}

func TestWorkersBeginOnAShareWhileProcessorsAreIdle(t *testing.T) {
	for _, test := range []struct {
		onNFS bool
		idle  float64 // processors
		want  int
	}{
		{onNFS: true, idle: 0.1, want: 0},
		{onNFS: true, idle: 3, want: removeWorkers - 1},
		{onNFS: false, idle: 0.1, want: removeWorkers - 1},
	} {
		folder, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		for i := range 20 {
			if err := os.MkdirAll(filepath.Join(folder.Name(), "tree", fmt.Sprint(i), "b"), 0o700); err != nil {
				t.Fatal(err)
			}
			for k := range 100 {
				if err := os.WriteFile(filepath.Join(folder.Name(), "tree", fmt.Sprint(i), fmt.Sprint(k)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		now := 1000.0
		r := remover{ctx: t.Context(), onNFS: test.onNFS, busy: make(chan struct{}, removeWorkers-1), processors: processors{
			read: func() (up, idle float64, err error) {
				now++
				return now, now * test.idle, nil
			},
		}}
		r.processors.areIdle()
		if err := r.remove(folder, "tree", 0); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(folder.Name(), "tree")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
		got := 0
		for got <= removeWorkers && r.another() {
			got++
		}
		if got != test.want {
			t.Errorf("on NFS %v, %v processors idle: %d more workers begin, want %d", test.onNFS, test.idle, got, test.want)
		}
	}
}
