package kernel

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
)

// document is the text of a file of exports, in lines.
type document []byte

// span is a part of a document.
type span struct{ from, to int }

// load reads a file into memory, which may be that of an earlier document. A missing
// file is an empty one.
func load(path string, memory document) (document, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory[:0], nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int(info.Size())
	if cap(memory) < size {
		memory = make(document, 0, size+size/4)
	}
	_, err = io.ReadFull(f, memory[:size])
	return memory[:size], err
}

// entries are the lines, and where they are.
func (d document) entries() iter.Seq2[span, entry] {
	return func(yield func(span, entry) bool) {
		for from := 0; from < len(d); {
			to, end := len(d), len(d)
			if i := bytes.IndexByte(d[from:], '\n'); i >= 0 {
				to, end = from+i, from+i+1
			}
			if !yield(span{from, end}, parse(d[from:to])) {
				return
			}
			from = end
		}
	}
}

// without takes the entries of a directory out of the document itself.
func (d document) without(dir string) document {
	kept := d[:0]
	for at, e := range d.entries() {
		if string(e.path) != dir {
			kept = append(kept, d[at.from:at.to]...)
		}
	}
	return kept
}

// with adds lines.
func (d document) with(lines []line) document {
	for _, l := range lines {
		d = append(append(d, l.text...), '\n')
	}
	return d
}

// writeWithout writes the document but for some parts, in their order, and with lines
// added.
func (d document) writeWithout(w io.Writer, drop []span, added []line) error {
	at := 0
	for _, part := range drop {
		if _, err := w.Write(d[at:part.from]); err != nil {
			return err
		}
		at = part.to
	}
	rest := d[at:]
	if len(rest) > 0 && rest[len(rest)-1] != '\n' { // not what exportfs writes
		added = append([]line{{}}, added...)
	}
	if _, err := w.Write(rest); err != nil {
		return err
	}
	_, err := w.Write(document(nil).with(added))
	return err
}
