package run

import "time"

// HurryKeepAlive has a silent host be noticed soon.
func HurryKeepAlive(o *SSHOptions) { o.beat, o.quiet = 10*time.Millisecond, 50*time.Millisecond }
