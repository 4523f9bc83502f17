package app

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/config"
)

func TestLevelsOfTheLog(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	for _, c := range []struct {
		level string
		want  []string
	}{
		{"debug", []string{"own-debug", "own-info", "own-warn", "own-error", "library-verbose", "library-info", "library-warn", "library-error"}},
		// Every event of every claim is information to the library. (Its warnings
		// come as information too: klog makes no difference.)
		{"info", []string{"own-info", "own-warn", "own-error", "library-error"}},
		{"warn", []string{"own-warn", "own-error", "library-error"}},
		{"error", []string{"own-error", "library-error"}},
	} {
		t.Run(c.level, func(t *testing.T) {
			var out strings.Builder
			log := newLogger(config.Log{Level: c.level, Format: "text"}, &out)
			log.Debug("own-debug")
			log.Info("own-info")
			log.Warn("own-warn")
			log.Error("own-error")
			library := klog.Background().WithName("queue").WithValues("claim", "team/data")
			library.V(1).Info("library-verbose")
			library.Info("library-info")
			klog.Warning("library-warn")
			library.Error(nil, "library-error")
			for _, message := range []string{"own-debug", "own-info", "own-warn", "own-error", "library-verbose", "library-info", "library-warn", "library-error"} {
				if got, want := strings.Contains(out.String(), message), slices.Contains(c.want, message); got != want {
					t.Errorf("%s is logged: %t, want %t", message, got, want)
				}
			}
		})
	}
}

func TestLinesOfTheLibrary(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	var out strings.Builder
	newLogger(config.Log{Level: "debug", Format: "json"}, &out)
	klog.Background().WithValues("claim", "team/data").Info("syncing")
	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	for key, want := range map[string]string{"level": "DEBUG", "component": "kubernetes-library", "claim": "team/data", "msg": "syncing"} {
		if line[key] != want {
			t.Errorf("%s is %v, want %s, in %s", key, line[key], want, out.String())
		}
	}
}
