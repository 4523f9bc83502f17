package harness

import (
	"os"
	"strings"
)

// Unit reads the settings of a unit of systemd and of its drop-ins, as systemd.syntax(7)
// has them: what is said more than once adds up, with spaces between.
func Unit(files ...string) (map[string]string, error) {
	settings := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			key, value, found := strings.Cut(strings.TrimSpace(line), "=")
			if found && !strings.HasPrefix(key, "#") {
				settings[key] = strings.TrimSpace(settings[key] + " " + value)
			}
		}
	}
	return settings, nil
}
