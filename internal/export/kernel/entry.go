package kernel

import (
	"bytes"
	"slices"
	"strings"
)

// entry is a line of the table of exports, or of a file of exports that Berth wrote,
// as it is read: good until the next one is. What others wrote and cannot be read has
// no path.
type entry struct {
	text    []byte
	path    []byte
	client  []byte
	options []byte
}

// parse reads a line that exportfs or Berth wrote.
func parse(text []byte) entry {
	path, rest, _ := bytes.Cut(text, []byte{'\t'})
	client, options, opened := bytes.Cut(rest, []byte{'('})
	options, closed := bytes.CutSuffix(options, []byte{')'})
	if !bytes.HasPrefix(path, []byte{'/'}) || !opened || !closed {
		return entry{text: text}
	}
	if bytes.IndexByte(path, '\\') >= 0 {
		path = []byte(unescape(string(path)))
	}
	return entry{text: text, path: path, client: client, options: options}
}

// fsid is what the entry says of it, nothing if it does not.
func (e entry) fsid() []byte {
	key := []byte("fsid=") // in which no other option ends
	i := bytes.Index(e.options, key)
	if i < 0 {
		return nil
	}
	id, _, _ := bytes.Cut(e.options[i+len(key):], []byte{','})
	return id
}

// says reports whether e exports as want does. exportfs writes lines anew with all
// options in them, those of each flavor of "sec" a second time.
func (e entry) says(want line) bool {
	if string(e.path) != want.path || string(e.client) != want.client {
		return false
	}
	has := strings.Split(string(e.options), ",")
	return !slices.ContainsFunc(strings.Split(want.options, ","), func(o string) bool {
		return !slices.Contains(has, o) || slices.Contains(has, opposite(o))
	})
}

// opposite is the option that takes back what o says; "" if there is none.
func opposite(o string) string {
	if strings.Contains(o, "=") {
		return ""
	}
	if rest, negated := strings.CutPrefix(o, "no_"); negated {
		return rest
	}
	switch o {
	case "rw":
		return "ro"
	case "ro":
		return "rw"
	case "sync":
		return "async"
	case "insecure":
		return "secure"
	}
	return "no_" + o
}
