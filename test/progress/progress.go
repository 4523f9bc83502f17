// Package progress tells people that something long goes on.
package progress

import (
	"bytes"
	"sync"
	"time"
)

// Interval is the time between two lines of progress.
const Interval = 5 * time.Second

// TailLines is how many of a log's last lines an error shows.
const TailLines = 20

// Every calls report again and again, each Interval, until the returned function is called.
func Every(report func()) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(Interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// Since returns the time since a moment, in full seconds.
func Since(start time.Time) time.Duration {
	return time.Since(start).Round(time.Second)
}

// Lines counts the lines written to it and keeps the last ones.
type Lines struct {
	mu     sync.Mutex
	number int
	kept   []byte
}

// Write implements io.Writer.
func (l *Lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number += bytes.Count(data, []byte("\n"))
	l.kept = Last(append(l.kept, data...), TailLines)
	return len(data), nil
}

// Count returns the number of full lines seen.
func (l *Lines) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// Tail returns the last lines seen.
func (l *Lines) Tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}

// Last returns the last n lines of text.
func Last(text []byte, n int) []byte {
	end := len(bytes.TrimRight(text, "\n"))
	for ; n > 0; n-- {
		end = bytes.LastIndexByte(text[:end], '\n')
		if end < 0 {
			return text
		}
	}
	return text[end+1:]
}
