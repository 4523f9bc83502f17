package nfs4

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// fakeOpen is the state behind a stateid.
type fakeOpen struct {
	owner  *fakeOwner
	handle string
	closed bool
}

// fakeOwner is an open-owner and its last reply, which a repeated request gets.
type fakeOwner struct {
	seq       uint32
	confirmed bool
	status    Status
	reply     []byte
	current   string
}

// lease executes the operations on client ids.
func (c *fakeCall) lease(op opcode, out *encoder) Status {
	switch op {
	case opSetClientID:
		c.fixed(8) // boot verifier
		name := c.string()
		c.fixed(4) // callback program, address and ident
		c.string()
		c.string()
		c.fixed(4)
		id := uint64(c.epoch)<<32 | uint64(c.newID())
		c.unconfirmed[id] = name
		out.uint64(id)
		out.uint64(id) // the verifier to confirm with
	case opSetClientIDConfirm:
		id, confirm := c.uint64(), c.uint64()
		name, ok := c.unconfirmed[id]
		if !ok || id != confirm {
			return ErrStaleClientID
		}
		c.clients[id] = name
	case opRenew:
		if _, ok := c.clients[c.uint64()]; !ok {
			return ErrStaleClientID
		}
	}
	return OK
}

func (s *fakeServer) newID() uint32 {
	s.lastID++
	return s.lastID
}

// openState executes the operations that have a sequence number.
func (c *fakeCall) openState(op opcode, out *encoder) Status {
	var (
		seq uint32
		id  []byte
	)
	switch op {
	case opOpen:
		return c.open(out)
	case opOpenConfirm:
		id, seq = c.fixed(16), c.uint32()
	case opClose:
		seq, id = c.uint32(), c.fixed(16)
	}
	open, status := c.find(id)
	if status != OK {
		return status
	}
	return c.inSequence(open.owner, seq, out, func(out *encoder) Status {
		if open.closed {
			return ErrBadStateID
		}
		open.owner.confirmed = true
		open.closed = op == opClose
		out.fixed(id)
		return OK
	})
}

func (c *fakeCall) open(out *encoder) Status {
	seq := c.uint32()
	c.fixed(8) // access and deny
	clientID := c.uint64()
	ownerName := c.string()
	var create, truncate bool
	var wanted fakeFile
	if create = c.uint32() == 1; create {
		c.uint32() // UNCHECKED
		set := c.attrSet()
		truncate = set&attrSize != 0
		values := c.opaque(maxName)
		wanted.mode = binary.BigEndian.Uint32(values[len(values)-4:])
	}
	reclaim := c.uint32() == 1
	var name string
	if reclaim {
		c.uint32() // delegation type
	} else {
		name = c.string()
	}

	clientName, ok := c.clients[clientID]
	if !ok {
		return ErrStaleClientID
	}
	key := fmt.Sprint(clientID, ownerName)
	owner := c.owners[key]
	if owner == nil {
		owner = &fakeOwner{seq: seq - 1}
		c.owners[key] = owner
	}
	return c.inSequence(owner, seq, out, func(out *encoder) Status {
		switch {
		case reclaim && !c.grace():
			return ErrNoGrace
		case reclaim && !c.lastClients[clientName]:
			return ErrReclaimBad
		case reclaim:
			owner.confirmed = true
			return c.opened(owner, out)
		case c.grace():
			return ErrGrace
		}
		if _, ok := c.names[name]; !ok {
			if !create {
				return ErrNoEnt
			}
			c.names[name] = c.newFile(wanted)
		}
		c.current = c.names[name]
		if truncate {
			f := c.files[c.current]
			f.data, f.stable = nil, nil
		}
		return c.opened(owner, out)
	})
}

func (s *fakeServer) newFile(f fakeFile) string {
	handle := fmt.Sprint("file ", s.newID())
	s.files[handle] = &f
	return handle
}

// opened opens the current file.
func (c *fakeCall) opened(owner *fakeOwner, out *encoder) Status {
	id := c.newID()
	c.opens[id] = &fakeOpen{owner: owner, handle: c.current}
	out.uint32(c.epoch, id, 0, 0)
	out.changeInfo()
	var flags uint32
	if !owner.confirmed {
		flags = 2
	}
	out.uint32(flags)
	out.attrSet(0)
	out.uint32(0) // no delegation
	return OK
}

func (e *encoder) changeInfo() { e.fixed(make([]byte, 20)) }

// inSequence executes do if seq is owner's next number, and repeats the last
// reply if it is the last one.
func (c *fakeCall) inSequence(owner *fakeOwner, seq uint32, out *encoder, do func(*encoder) Status) Status {
	if seq != owner.seq {
		if seq != owner.seq+1 {
			c.t.Errorf("sequence number %d after %d", seq, owner.seq)
			return ErrBadSeqID
		}
		var reply encoder
		status := do(&reply)
		*owner = fakeOwner{seq, owner.confirmed, status, reply.buf, c.current}
	}
	c.current = owner.current
	out.buf = append(out.buf, owner.reply...)
	return owner.status
}

// find returns the open behind a stateid.
func (s *fakeServer) find(id []byte) (*fakeOpen, Status) {
	if binary.BigEndian.Uint32(id) != s.epoch {
		return nil, ErrStaleStateID
	}
	open := s.opens[binary.BigEndian.Uint32(id[4:])]
	if open == nil {
		return nil, ErrBadStateID
	}
	return open, OK
}

// data executes the operations on the content of the current file.
func (c *fakeCall) data(op opcode, out *encoder) Status {
	f := c.files[c.current]
	if op == opCommit {
		f.stable = slices.Clone(f.data)
		c.fixed(12) // offset and count
		out.uint64(c.writeVerifier)
		return OK
	}
	if id := c.fixed(16); stateID(id) != (stateID{}) {
		open, status := c.find(id)
		if status != OK {
			return status
		}
		if open.closed || open.handle != c.current || !open.owner.confirmed {
			c.t.Errorf("%v with the wrong stateid", op)
			return ErrBadStateID
		}
	}
	switch op {
	case opRead:
		offset, count := int(c.uint64()), int(c.uint32())
		from := min(offset, len(f.data))
		to := min(from+count, len(f.data))
		eof := uint32(0)
		if to == len(f.data) {
			eof = 1
		}
		out.uint32(eof)
		out.opaque(f.data[from:to])
	case opWrite:
		offset := int(c.uint64())
		c.uint32() // stability
		p := c.opaque(fakeTransfer)
		f.resize(max(len(f.data), offset+len(p)))
		copy(f.data[offset:], p)
		const unstable = 0
		out.uint32(uint32(len(p)), unstable)
		out.uint64(c.writeVerifier)
	case opSetAttr:
		set := c.attrSet()
		values := decoder{buf: c.opaque(maxName)}
		if set&attrSize != 0 {
			f.resize(int(values.uint64()))
			f.stable = slices.Clone(f.data)
		}
		if set&attrMode != 0 {
			f.mode = values.uint32()
		}
		out.attrSet(set)
	}
	return OK
}

func (f *fakeFile) resize(size int) {
	f.data = append(f.data, make([]byte, max(0, size-len(f.data)))...)[:size]
}

// directory executes the operations on the entries of the only directory.
func (c *fakeCall) directory(op opcode, out *encoder) Status {
	if op == opReadDir {
		return c.readDir(out)
	}
	if op == opCreate {
		c.uint32() // type
	}
	name := c.string()
	var to string
	switch op {
	case opCreate:
		c.attrSet()
		c.opaque(maxName)
	case opRename:
		to = c.string()
	}
	_, there := c.names[name]
	switch {
	case c.grace():
		return ErrGrace
	case op == opCreate && there:
		return ErrExist
	case op == opCreate:
		c.names[name] = c.newFile(fakeFile{directory: true, mode: 0o755})
		out.changeInfo()
		out.attrSet(attrMode)
	case !there:
		return ErrNoEnt
	case op == opRemove:
		delete(c.files, c.names[name])
		delete(c.names, name)
		out.changeInfo()
	case op == opRename:
		c.names[to] = c.names[name]
		delete(c.names, name)
		out.changeInfo()
		out.changeInfo()
	}
	return OK
}

func (c *fakeCall) readDir(out *encoder) Status {
	const firstCookie = 3 // lower ones have a meaning of their own
	start := int(max(c.uint64(), firstCookie-1) - (firstCookie - 1))
	c.fixed(8 + 4 + 4) // verifier, sizes
	set := c.attrSet()
	names := slices.Sorted(maps.Keys(c.names))
	end := min(start+fakePage, len(names))
	out.uint64(0) // verifier
	for i := start; i < end; i++ {
		out.uint32(1)
		out.uint64(uint64(firstCookie + i))
		out.string(names[i])
		c.fakeAttrs(out, set, c.names[names[i]])
	}
	eof := uint32(0)
	if end == len(names) {
		eof = 1
	}
	out.uint32(0, eof)
	return OK
}
