package ganesha

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// recentLines passes Ganesha's log on and keeps its latest complaints, because
// its answers on the bus do not say what is wrong.
type recentLines struct {
	log *slog.Logger

	mu      sync.Mutex
	serving bool     // complaints are passed on as such
	count   int      // complaints so far
	lines   []string // the last of them
}

const keptLines = 20

// line takes one line of Ganesha's log: "date : epoch … : host : program[thread] function :COMPONENT :LEVEL :text".
func (r *recentLines) line(line string) {
	level, text := parseLogLine(line)
	r.mu.Lock()
	defer r.mu.Unlock()
	passed := level
	if !r.serving {
		// At each start Ganesha complains of what it does not need (Kerberos, RADOS,
		// UDP). If the start fails, its error has these lines.
		passed = slog.LevelDebug
	}
	r.log.Log(context.Background(), passed, text)
	if level < slog.LevelWarn {
		return
	}
	r.count++
	r.lines = append(r.lines, text)
	if len(r.lines) > keptLines {
		r.lines = r.lines[1:]
	}
}

// started says that the server is up.
func (r *recentLines) started() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serving = true
}

// mark is the place in the log where since begins.
func (r *recentLines) mark() int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// since is what was complained about after mark. The log comes through a pipe
// and may lag behind the answer a little.
func (r *recentLines) since(mark int) string {
	if r == nil {
		return "NFS-Ganesha's log says why"
	}
	time.Sleep(50 * time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines[max(0, len(r.lines)-(r.count-mark)):], "; ")
}

// noSubvolumes is what Ganesha says of each file system of btrfs. It serves subvolumes
// that are mounted by themselves, as those of volumes are.
const noSubvolumes = "may have unsupported subvols"

func parseLogLine(line string) (slog.Level, string) {
	fields := strings.SplitN(line, " :", 7)
	if len(fields) < 7 {
		return slog.LevelInfo, line
	}
	text := fields[6]
	if strings.HasSuffix(text, noSubvolumes) {
		return slog.LevelDebug, text
	}
	switch strings.TrimSpace(fields[5]) {
	case "FATAL", "MAJ", "CRIT":
		return slog.LevelError, text
	case "WARN":
		return slog.LevelWarn, text
	default: // EVENT is Ganesha's word for what it tells when all is well
		return slog.LevelDebug, text
	}
}
