package dir

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

// processors tells whether those of this host have time to spare.
type processors struct {
	// read gives the seconds since boot, and how many of them processors were idle, of
	// all processors together.
	read func() (up, idle float64, err error)

	mu               sync.Mutex
	lastUp, lastIdle float64 // at the last look, if there was one
	idle             bool    // as found then
}

// lookEvery is in seconds. The kernel counts hundredths.
const lookEvery = 0.1

// areIdle says whether half a processor or more was idle between the last two looks. It is not
// known before the second. Where nothing tells, they count as idle.
func (p *processors) areIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	up, idle, err := p.read()
	if err != nil {
		return true
	}
	passed := up - p.lastUp
	if passed < lookEvery {
		return p.idle
	}
	p.idle = p.lastUp > 0 && idle-p.lastIdle >= passed/2
	p.lastUp, p.lastIdle = up, idle
	return p.idle
}

// readUptime reads /proc/uptime, see proc(5).
func readUptime() (up, idle float64, err error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(text), &up, &idle)
	return up, idle, err
}

// spareProcessor has Go's scheduler count one processor more than a host has that has one only.
// It takes the last one that it has away from each system call that takes longer than 20 µs, and
// looks for what else to run: four changes of threads for each file that is removed on a share.
var spareProcessor = sync.OnceFunc(func() {
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2)
	}
})
