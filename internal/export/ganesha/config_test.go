package ganesha

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-storage/berth/internal/export"
)

func TestBaseConfig(t *testing.T) {
	o := Options{Port: 2049, GracePeriod: 30 * time.Second, StateDir: "/state"}
	v3 := o
	v3.NFSv3 = true
	shortGrace := o
	shortGrace.GracePeriod = 5 * time.Second
	noGrace := o
	noGrace.GracePeriod = 0
	listen := o
	listen.Listen = "10.0.0.1"
	for _, c := range []struct {
		name     string
		o        Options
		unused   bool
		has, not []string
	}{
		{"short grace period", shortGrace, false, []string{"Grace_Period = 5;", "Lease_Lifetime = 20;"}, nil},
		{"default", o, false, []string{"NFS_Protocols = 4;", "Enable_NLM = false;", "Grace_Period = 30;", "Lease_Lifetime = 20;", `"/state/recovery"`}, []string{"Bind_addr", "Graceless"}},
		{"no clients yet", o, true, []string{"Graceless = true;", "Grace_Period = 30;", "Lease_Lifetime = 20;"}, nil},
		{"NFSv3", v3, false, []string{"NFS_Protocols = 3, 4;", "Enable_NLM = true;", "MNT_Port = 20048;"}, nil},
		{"no grace", noGrace, false, []string{"Graceless = true;"}, []string{"Grace_Period"}},
		{"one address", listen, false, []string{"Bind_addr = 10.0.0.1;"}, nil},
	} {
		text := string(baseConfig(c.o, c.unused))
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: lacks %q:\n%s", c.name, want, text)
			}
		}
		for _, bad := range c.not {
			if strings.Contains(text, bad) {
				t.Errorf("%s: has %q:\n%s", c.name, bad, text)
			}
		}
	}
}

func TestExportBlock(t *testing.T) {
	e := export.Export{ID: 7, Dir: "/srv/a b", Path: "/pool/v", Squash: export.SquashRoot}
	e.FSID[7], e.FSID[15] = 1, 2
	got, err := exportBlock(e, false)
	if err != nil {
		t.Fatal(err)
	}
	want := `EXPORT { Export_Id = 7; Path = "/srv/a b"; Pseudo = "/pool/v"; Filesystem_Id = 1.2; Squash = Root_Squash; FSAL { Name = VFS; } }` + "\n"
	if string(got) != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if e.Clients, err = export.ParseClients([]string{"10.0.0.0/8", "fd00::1"}); err != nil {
		t.Fatal(err)
	}
	if got, err = exportBlock(e, false); err != nil {
		t.Fatal(err)
	}
	all := want
	want = strings.Replace(all, " FSAL", " Access_Type = None; CLIENT { Clients = 10.0.0.0/8, fd00::1; Access_Type = RW; } FSAL", 1)
	if string(got) != want {
		t.Errorf("got  %swant %s", got, want)
	}
	e.ReadOnly = true
	if got, err = exportBlock(e, false); err != nil || string(got) != strings.Replace(want, "= RW", "= RO", 1) {
		t.Errorf("read-only for clients: %s, %v", got, err)
	}
	e.Clients = export.Clients{}
	if got, err = exportBlock(e, false); err != nil || string(got) != strings.Replace(all, " FSAL", " Access_Type = RO; FSAL", 1) {
		t.Errorf("read-only: %s, %v", got, err)
	}
}

// To a Ganesha with defaults of its own everything is said.
func TestExportBlockThatIsAlone(t *testing.T) {
	e := export.Export{ID: 7, Dir: "/srv/a", Path: "/pool/v", Squash: export.SquashNone}
	squashed := e
	squashed.Squash = export.SquashRoot
	var err error
	if squashed.Clients, err = export.ParseClients([]string{"10.0.0.0/8"}); err != nil {
		t.Fatal(err)
	}
	const head = `EXPORT { Export_Id = 7; Path = "/srv/a"; Pseudo = "/pool/v"; Filesystem_Id = 0.0; SecType = sys; Anonymous_Uid = 65534; Anonymous_Gid = 65534; `
	for want, e := range map[string]export.Export{
		head + "Squash = No_Root_Squash; Access_Type = RW; FSAL { Name = VFS; } }\n":                                                   e,
		head + "Squash = Root_Squash; Access_Type = None; CLIENT { Clients = 10.0.0.0/8; Access_Type = RW; } FSAL { Name = VFS; } }\n": squashed,
	} {
		if got, err := exportBlock(e, true); err != nil || string(got) != want {
			t.Errorf("got  %s%v\nwant %s", got, err, want)
		}
	}
}

func FuzzExportBlock(f *testing.F) {
	f.Add("/srv/a", "/pool/a", true)
	f.Add(`/srv/a"; Squash = No_Root_Squash; #`, "/pool/a", false)
	f.Add("/srv/a", "/a\n}\nEXPORT { Export_Id = 9; }", false)
	f.Fuzz(func(t *testing.T, dir, path string, alone bool) {
		block, err := exportBlock(export.Export{ID: 1, Dir: dir, Path: path}, alone)
		if err != nil {
			if !errors.Is(err, export.ErrRefused) {
				t.Errorf("got error %v, want %v", err, export.ErrRefused)
			}
			return
		}
		// Two quoted words and nothing that could end one of them early.
		text := string(block)
		if strings.Count(text, `"`) != 4 || strings.Count(text, "\n") != 1 || strings.Contains(text, `\`) {
			t.Errorf("dir %q and path %q got out of their quotes: %s", dir, path, text)
		}
	})
}

func TestParseLogLine(t *testing.T) {
	const head = "21/11/2026 05:13:34 : epoch 6b01287e : host : nfs-ganesha-8867[main] "
	for line, want := range map[string]struct {
		level slog.Level
		text  string
	}{
		head + "main :MAIN :EVENT :nfs-ganesha Starting: Ganesha Version 4.3": {slog.LevelDebug, "nfs-ganesha Starting: Ganesha Version 4.3"},
		head + "load_rados_config :CONFIG :WARN :Missing RADOS :URLs":         {slog.LevelWarn, "Missing RADOS :URLs"},
		head + "export_commit :EXPORT :CRIT :Export id 1 already active!!!":   {slog.LevelError, "Export id 1 already active!!!"},
		"something else that is printed":                                      {slog.LevelInfo, "something else that is printed"},
	} {
		level, text := parseLogLine(line)
		if level != want.level || text != want.text {
			t.Errorf("%q: got %v %q, want %v %q", line, level, text, want.level, want.text)
		}
	}
}

func TestEpochsOnlyGrow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "epoch")
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		now  time.Time
		want int64
	}{
		{now, 1000},
		{now, 1001},                       // back within the second
		{now.Add(-time.Hour), 1002},       // the clock was set back
		{now.Add(time.Hour), 1000 + 3600}, // the time has gone on
	} {
		got, err := nextEpoch(file, c.now)
		if err != nil || got != c.want {
			t.Errorf("start %d: got %d, %v; want %d", i, got, err, c.want)
		}
	}
}
