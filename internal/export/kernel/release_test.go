package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Only clients that lost their lease are ended, and only those that have something open there.
func TestLostClientsAreEnded(t *testing.T) {
	const here, elsewhere = `superblock: "00:1b:3"`, `superblock: "00:1c:3"`
	folder := t.TempDir()
	for _, c := range []struct {
		name, status, states string
		ended                bool
	}{
		{"1", "courtesy", "- 0x1: { type: open, " + here + " }\n", true},
		{"2", "expirable", "- 0x1: { " + elsewhere + " }\n- 0x2: { " + here + " }\n", true},
		{"3", "confirmed", "- 0x1: { " + here + " }\n", false},
		{"4", "courtesy", "- 0x1: { " + elsewhere + " }\n", false},
		{"5", "courtesy", "", false},
	} {
		client := filepath.Join(folder, c.name)
		if err := os.Mkdir(client, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{
			"info": "clientid: 0xb66d3b086b01ce12\nstatus: " + c.status + "\nname: \"status: courtesy\"\n", "states": c.states, "ctl": "",
		} {
			if err := os.WriteFile(filepath.Join(client, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			if got, err := os.ReadFile(filepath.Join(client, "ctl")); err != nil || (string(got) == "expire\n") != c.ended {
				t.Errorf("client %s, %s: was told %q, %v", c.name, c.status, got, err)
			}
		}()
	}
	if err := os.Mkdir(filepath.Join(folder, "6"), 0o700); err != nil { // gone while it was looked at
		t.Fatal(err)
	}
	toGo := func(device uint64) bool { return device == unix.Mkdev(0, 0x1b) }
	if err := dropLost(folder, toGo); err != nil {
		t.Error(err)
	}
	if err := dropLost(filepath.Join(folder, "none"), toGo); err != nil {
		t.Errorf("without a server: %v", err)
	}
}
