package run

import "time"

// HurryKeepAlive has a silent host be noticed soon.
func HurryKeepAlive(o *SSHOptions) { o.beat, o.quiet = 10*time.Millisecond, 50*time.Millisecond }

// NoPause has a host be asked again at once that could not be reached.
func NoPause(o *SSHOptions) { o.pause = time.Nanosecond }
