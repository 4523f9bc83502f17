package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Moment is one in the life of a command.
type Moment string

// The moments at which a connection can be cut.
const (
	Before Moment = "before" // sshd has got the command; it is never run
	During Moment = "during" // it is running, and goes on
	After  Moment = "after"  // it has ended, and the client does not know
)

// wrapper runs the command, and tells of the moment that is waited for. The file "moment"
// belongs to the first that takes it away.
const wrapper = `#!/bin/sh
here=${0%%/*}
command=%s
moment=
if [ -e "$here/moment" ] && mv "$here/moment" "$here/moment.$$" 2>/dev/null; then
	moment=$(cat "$here/moment.$$")
	rm "$here/moment.$$"
fi
tell() {
	echo >"$here/arrived"
	read -r _ <"$here/left"
}
case $moment in
before) tell ;;
during)
	eval "$command" &
	tell
	wait "$!"
	;;
after)
	eval "$command"
	tell
	;;
*) eval "$command" ;;
esac
`

// moments lets a test wait for one.
type moments struct{ dir string }

func (m moments) wrapper() string { return filepath.Join(m.dir, "wrapper") }

func (m moments) prepare(command string) error {
	inner := `$SSH_ORIGINAL_COMMAND` // what a shell evaluates
	if command != "" {
		inner = "'" + command + "'"
	}
	for _, pipe := range []string{"arrived", "left"} {
		if err := syscall.Mkfifo(filepath.Join(m.dir, pipe), 0o666); err != nil {
			return fmt.Errorf("%s: %w", pipe, err)
		}
	}
	return os.WriteFile(m.wrapper(), fmt.Appendf(nil, wrapper, inner), 0o755)
}

// CutAt has all connections be cut at a moment of the next command that is run. The channel gets
// the outcome when that is done.
func (s *Server) CutAt(m Moment) <-chan error {
	done := make(chan error, 1)
	temporary := s.path("moment.new")
	if err := errors.Join(os.WriteFile(temporary, []byte(m), 0o666), os.Rename(temporary, s.path("moment"))); err != nil {
		done <- err
		return done
	}
	go func() {
		// Opening a named pipe waits for somebody at its other end (fifo(7)).
		if _, err := os.ReadFile(s.path("arrived")); err != nil {
			done <- err
			return
		}
		s.Cut()
		left, err := os.OpenFile(s.path("left"), os.O_WRONLY, 0)
		if err == nil {
			err = left.Close()
		}
		done <- err
	}()
	return done
}
