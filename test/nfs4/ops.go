package nfs4

// The operations that a compound may hold, in the order of RFC 7530 section 16:
// each method appends the arguments and says how to take the results.

func (c *compound) close(seq uint32, id stateID) {
	c.add(opClose, func(d *decoder) { d.fixed(len(id)) })
	c.uint32(seq)
	c.fixed(id[:])
}

// commit asks for the whole file.
func (c *compound) commit(v *verifier) {
	c.add(opCommit, func(d *decoder) { copy(v[:], d.fixed(len(v))) })
	const offset, count = 0, 0
	c.uint64(offset)
	c.uint32(count)
}

func (c *compound) makeDir(name string, mode uint32) {
	c.add(opCreate, func(d *decoder) {
		d.changeInfo()
		d.attrSet()
	})
	c.uint32(uint32(TypeDirectory))
	c.string(name)
	c.settable(attrMode, Attr{Mode: mode})
}

func (c *compound) getAttr(set attrSet, a *Attr, server *serverAttr) {
	c.add(opGetAttr, func(d *decoder) { d.attrs(a, server) })
	c.attrSet(set)
}

func (c *compound) getFH(fh *handle) {
	c.add(opGetFH, func(d *decoder) { *fh = append(handle(nil), d.opaque(maxHandle)...) })
}

func (c *compound) lookup(name string) {
	c.add(opLookup, nil)
	c.string(name)
}

// walk makes the object at the end of names the current one.
func (c *compound) walk(names []string) {
	c.add(opPutRootFH, nil)
	for _, name := range names {
		c.lookup(name)
	}
}

// openArgs says what to open: the entry name of the current directory, or, if
// reclaim is set, the current file, which was open before the server restarted.
type openArgs struct {
	seq      uint32
	access   uint32
	clientID uint64
	owner    []byte
	name     string
	create   *createArgs // nil: the file must be there
	reclaim  bool
}

// createArgs make a file that is not there, and say what to do to one that is.
type createArgs struct {
	mode     uint32
	truncate bool
}

type openResult struct {
	stateID stateID
	confirm bool // the server wants an OPEN_CONFIRM
}

const (
	accessRead  = 1
	accessWrite = 2
)

func (c *compound) open(args openArgs, res *openResult) {
	c.add(opOpen, res.decode)
	const (
		denyNone      = 0
		noCreate      = 0
		create        = 1
		unchecked     = 0
		claimNull     = 0
		claimPrevious = 1
		noDelegation  = 0
	)
	c.uint32(args.seq, args.access, denyNone)
	c.uint64(args.clientID)
	c.opaque(args.owner)
	if args.create == nil {
		c.uint32(noCreate)
	} else {
		// UNCHECKED looks only at a size of zero if the file is there (RFC 7530
		// section 16.16.5), so sending it twice does no harm.
		set := attrMode
		if args.create.truncate {
			set |= attrSize
		}
		c.uint32(create, unchecked)
		c.settable(set, Attr{Mode: args.create.mode})
	}
	if args.reclaim {
		c.uint32(claimPrevious, noDelegation)
	} else {
		c.uint32(claimNull)
		c.string(args.name)
	}
}

func (r *openResult) decode(d *decoder) {
	const flagConfirm, noDelegation = 2, 0
	copy(r.stateID[:], d.fixed(len(r.stateID)))
	d.changeInfo()
	r.confirm = d.uint32()&flagConfirm != 0
	d.attrSet()
	// A server delegates only to clients it can call back, and this client
	// gave it no address.
	if kind := d.uint32(); kind != noDelegation {
		d.fail("delegation of type %d", kind)
	}
}

func (c *compound) openConfirm(seq uint32, id *stateID) {
	c.add(opOpenConfirm, func(d *decoder) { copy(id[:], d.fixed(len(id))) })
	c.fixed(id[:])
	c.uint32(seq)
}

func (c *compound) putFH(fh handle) {
	c.add(opPutFH, nil)
	c.opaque(fh)
}

// readResult takes what READ found: n bytes in p.
type readResult struct {
	p   []byte
	n   int
	eof bool
}

func (c *compound) read(id stateID, offset uint64, res *readResult) {
	c.add(opRead, func(d *decoder) {
		res.eof = d.bool()
		res.n = copy(res.p, d.opaque(len(res.p)))
	})
	c.fixed(id[:])
	c.uint64(offset)
	c.uint32(uint32(len(res.p)))
}

// dirPage is a part of a directory, and where the next part begins.
type dirPage struct {
	entries  []Entry
	cookie   uint64
	verifier verifier
	eof      bool
}

// readDir asks for what follows page.
func (c *compound) readDir(page *dirPage) {
	c.add(opReadDir, page.decode)
	c.uint64(page.cookie)
	c.fixed(page.verifier[:])
	c.uint32(dirNames, dirBytes)
	c.attrSet(entryAttrs)
}

func (p *dirPage) decode(d *decoder) {
	p.entries = p.entries[:0]
	copy(p.verifier[:], d.fixed(len(p.verifier)))
	for d.bool() {
		var e Entry
		p.cookie = d.uint64()
		e.Name = string(d.opaque(maxName))
		d.attrs(&e.Attr, &serverAttr{})
		p.entries = append(p.entries, e)
	}
	p.eof = d.bool()
	if d.err == nil && !p.eof && len(p.entries) == 0 {
		d.fail("an empty part of a directory that is not its end")
	}
}

func (c *compound) remove(name string) {
	c.add(opRemove, (*decoder).changeInfo)
	c.string(name)
}

// rename moves an entry of the saved directory into the current one.
func (c *compound) rename(from, to string) {
	c.add(opRename, func(d *decoder) {
		d.changeInfo()
		d.changeInfo()
	})
	c.string(from)
	c.string(to)
}

func (c *compound) renew(clientID uint64) {
	c.add(opRenew, nil)
	c.uint64(clientID)
}

func (c *compound) saveFH() { c.add(opSaveFH, nil) }

func (c *compound) setAttr(id stateID, set attrSet, a Attr) {
	c.add(opSetAttr, func(d *decoder) { d.attrSet() })
	c.fixed(id[:])
	c.settable(set, a)
}

// setClientID names this client. The callback address is empty, which keeps the
// server from delegating files to it.
func (c *compound) setClientID(boot verifier, name string, clientID *uint64, confirm *verifier) {
	c.add(opSetClientID, func(d *decoder) {
		*clientID = d.uint64()
		copy(confirm[:], d.fixed(len(confirm)))
	})
	const callbackProgram, callbackIdent = 0, 0
	c.fixed(boot[:])
	c.string(name)
	c.uint32(callbackProgram)
	c.string("tcp")
	c.string("0.0.0.0.0.0")
	c.uint32(callbackIdent)
}

func (c *compound) setClientIDConfirm(clientID uint64, confirm verifier) {
	c.add(opSetClientIDConfirm, nil)
	c.uint64(clientID)
	c.fixed(confirm[:])
}

// writeResult is what the server did with the data of a WRITE.
type writeResult struct {
	n        int
	stable   bool
	verifier verifier
}

func (c *compound) write(id stateID, offset uint64, p []byte, res *writeResult) {
	const unstable = 0
	c.add(opWrite, func(d *decoder) {
		n := d.uint32()
		if uint64(n) > uint64(len(p)) || n == 0 && len(p) > 0 {
			d.fail("%d of %d bytes written", n, len(p))
		}
		res.n = int(n)
		res.stable = d.uint32() != unstable
		copy(res.verifier[:], d.fixed(len(res.verifier)))
	})
	c.fixed(id[:])
	c.uint64(offset)
	c.uint32(unstable)
	c.opaque(p)
}

// changeInfo skips a change_info4: this client caches no directories.
func (d *decoder) changeInfo() {
	d.bool()
	d.uint64()
	d.uint64()
}
