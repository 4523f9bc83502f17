package zfs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-storage/berth/internal/volume"
)

func TestParse(t *testing.T) {
	output := "tank/a\tmounted\t-\tyes\n" +
		"tank/a\tberth:record\tlocal\t{\"name\":\"a\tb\"}\n" +
		"tank/a@s\tberth:record\tinherited from tank/a\t{}\n" +
		"tank/a\tused\t-\t12\n"
	all, err := parse([]byte(output))
	if err != nil || len(all) != 2 {
		t.Fatalf("got %d datasets, %v", len(all), err)
	}
	a, s := all[0], all[1]
	if a.name != "tank/a" || a.local(propRecord) != "{\"name\":\"a\tb\"}" || a.number("used") != 12 || a.value("mounted") != "yes" || a.local("mounted") != "" {
		t.Errorf("got %+v", a)
	}
	if !s.isSnapshot() || a.isSnapshot() || s.local(propRecord) != "" || s.number(propRecord) != 0 {
		t.Errorf("got %+v", s)
	}
}

// Whoever may set properties can put lines into the output.
func TestParseTrustsNoPropertyThatIsThereTwice(t *testing.T) {
	forged := "tank/a\tberth:record\tlocal\t{}\n" + // the value of another one, with a new line in it
		"tank/a\tberth:record\tlocal\t{\"name\":\"b\"}\n"
	all, err := parse([]byte(forged))
	if err == nil || len(all) != 1 || all[0].local(propRecord) != "" {
		t.Errorf("got %+v, %v", all, err)
	}
	if all, err = parse([]byte("tank/a\tmounted\t-\tyes\nno property\n\t\t\t\n")); err == nil || len(all) != 1 {
		t.Errorf("got %+v, %v", all, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("tank/a\tmounted\t-\tyes\ntank/a\tberth:record\tlocal\t{\"name\":\"a\",\"path\":\"a\"}\n"))
	f.Add([]byte("tank/a@s\tberth:record\tinherited from tank/a\t{}\n\n\t\t\t\t"))
	f.Add([]byte("tank/.berth/a\tberth:record\tlocal\t{\"name\":\"a\",\"path\":\"b\"}"))
	f.Fuzz(func(t *testing.T, output []byte) {
		b := &Backend{o: Options{Dataset: "tank"}, root: "/tank", places: map[volume.Name]volume.RelPath{}, discarded: map[volume.Name]bool{}}
		all, _ := parse(output)
		for _, d := range all {
			v, ours, err := b.decode(d)
			if !ours || err != nil {
				continue
			}
			// What counts as ours lies where it says, and was said there.
			at := []string{"tank/" + v.Path.String(), "tank/.berth/" + v.Name.String()}
			if d.name != at[0] && d.name != at[1] || d.local(propRecord) == "" || (d.name == at[1]) != (v.State == volume.StateDiscarded) && v.State != volume.StateDiscarded {
				t.Errorf("%q is taken for volume %+v", d.name, v)
			}
		}
	})
}

func TestDecodeTakesRecordsOfTheDatasetItselfOnly(t *testing.T) {
	const record = `{"name":"a","path":"a","state":"ready","size":1}`
	for at, want := range map[string]bool{
		"tank/v/a": true, "tank/v/.berth/a": true, "tank/v/a@s": false, "tank/v/a/a": false, "tank/a": false, "tank/v": false, "a": false, "other/v/a": false,
	} {
		b := &Backend{o: Options{Dataset: "tank/v"}, root: "/v", places: map[volume.Name]volume.RelPath{}, discarded: map[volume.Name]bool{}}
		for source, counts := range map[string]bool{"local": true, "received": false, "inherited from tank/v": false, "-": false} {
			v, ours, err := b.decode(&dataset{name: at, properties: map[string]property{propRecord: {source, record}}})
			if ours != (want && counts) || err != nil {
				t.Errorf("%s, %s: ours: %t, %v", at, source, ours, err)
			}
			if ours && (v.State == volume.StateDiscarded) != strings.Contains(at, ".berth") {
				t.Errorf("%s is %s", at, v.State)
			}
		}
	}
	b := &Backend{o: Options{Dataset: "tank/v"}}
	for _, wrong := range []string{`{`, `{}`, `{"name":"b","path":"b"}`, `{"name":"a","path":"a/a"}`, `{"name":"../a","path":"a"}`, `[]`} {
		if _, ours, err := b.decode(&dataset{name: "tank/v/a", properties: map[string]property{propRecord: {local, wrong}}}); ours || err == nil {
			t.Errorf("record %s: ours: %t, %v", wrong, ours, err)
		}
	}
}

func TestCheckDataset(t *testing.T) {
	for name, want := range map[string]bool{
		"tank": true, "tank/volumes": true, "tank/a.b-c_d:e": true, "": false, "/tank": false, "tank/": false, "tank//a": false, "tank/..": false, "tank/.": false,
		"-r": false, "tank/a b": false, "tank/a@s": false, "tank/a;b": false, "tank/$(x)": false, "tank/ü": false, "tank/" + strings.Repeat("a", 256): false,
	} {
		if err := checkDataset(name); (err == nil) != want {
			t.Errorf("%.40q: %v", name, err)
		}
	}
}

func TestGetIsOneWordPerOption(t *testing.T) {
	want := []string{"get", "-Hp", "-o", "name,property,source,value", "-d1", "a,b", "tank"}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(get([]string{"a", "b"}, "-d1", "tank"))); diff != "" {
		t.Error(diff)
	}
}
