package nfs4

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	fakeGrace    = 10 * time.Second
	fakeLease    = 10 * time.Second
	fakeDowntime = time.Second // of a restart
	fakeTransfer = 8           // bytes in a READ or WRITE
	fakePage     = 2           // entries in a READDIR
)

// fault is what happens to one call.
type fault int

const (
	noFault fault = iota
	loseRequest
	loseReply
	restartBefore // the call is executed by the next server, if it is sent again
	restartAfter  // it was executed, but nobody hears of it
)

func (f fault) String() string {
	return [...]string{"no fault", "lose request", "lose reply", "restart before", "restart after"}[f]
}

// fakeServer is an NFSv4.0 server in memory, with one directory and just enough
// operations for Client. It is strict: what a correct client never does fails
// the test. A restart loses all state and all data that was not committed.
type fakeServer struct {
	t *testing.T

	// inject decides about each COMPOUND, the first being number 1.
	inject func(call int) fault
	// refuse gives an operation another outcome than OK without executing it.
	refuse func(op opcode) Status

	mu       sync.Mutex
	conns    map[net.Conn]bool
	calls    int
	executed map[opcode]int
	started  time.Time // later than now: the server is down
	inGrace  time.Time // until then

	epoch       uint32
	lastID      uint32 // of anything
	unconfirmed map[uint64]string
	clients     map[uint64]string
	lastClients map[string]bool // names of the clients of the last epoch
	opens       map[uint32]*fakeOpen
	owners      map[string]*fakeOwner

	files         map[string]*fakeFile // by handle
	names         map[string]string    // handles by name
	writeVerifier uint64
}

type fakeFile struct {
	directory bool
	mode      uint32
	data      []byte
	stable    []byte
}

const fakeRoot = "root"

func newFakeServer(t *testing.T) *fakeServer {
	s := &fakeServer{
		t:        t,
		inject:   func(int) fault { return noFault },
		refuse:   func(opcode) Status { return OK },
		conns:    map[net.Conn]bool{},
		executed: map[opcode]int{},
		files:    map[string]*fakeFile{fakeRoot: {directory: true, mode: 0o755}},
		names:    map[string]string{},
	}
	s.restart(0)
	s.inGrace = time.Now()
	return s
}

// mount makes a client of s that the caller closes.
func (s *fakeServer) mount(o Options) *Client {
	s.t.Helper()
	c, err := mount(s.t.Context(), o, s.dial)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *fakeServer) dial(context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.started) {
		return nil, syscall.ECONNREFUSED
	}
	client, server := net.Pipe()
	s.conns[server] = true
	go s.serve(server)
	return client, nil
}

// restart forgets everything but the files, and who had a lease.
func (s *fakeServer) restart(downtime time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restartLocked(downtime)
}

func (s *fakeServer) restartLocked(downtime time.Duration) {
	for conn := range s.conns {
		conn.Close()
	}
	clear(s.conns)
	s.lastClients = map[string]bool{}
	for _, name := range s.clients {
		s.lastClients[name] = true
	}
	s.epoch++
	s.unconfirmed = map[uint64]string{}
	s.clients = map[uint64]string{}
	s.opens = map[uint32]*fakeOpen{}
	s.owners = map[string]*fakeOwner{}
	s.loseDataLocked()
	s.started = time.Now().Add(downtime)
	s.inGrace = s.started.Add(fakeGrace)
}

// loseData forgets what was not committed, and nothing else.
func (s *fakeServer) loseData() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseDataLocked()
}

func (s *fakeServer) loseDataLocked() {
	s.writeVerifier++
	for _, f := range s.files {
		f.data = bytes.Clone(f.stable)
	}
}

// openCount is how many opens the server holds.
func (s *fakeServer) openCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, open := range s.opens {
		if !open.closed {
			n++
		}
	}
	return n
}

// content returns the stable data of a file.
func (s *fakeServer) content(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[s.names[name]]; f != nil {
		return string(f.stable)
	}
	return "(no such file)"
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	for {
		record, err := readRecord(conn)
		if err != nil {
			return
		}
		reply := s.handle(conn, record)
		if reply == nil {
			return
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// handle returns the reply to one call, or nil to drop the connection.
func (s *fakeServer) handle(conn net.Conn, record []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.conns[conn] {
		return nil // of an earlier epoch
	}
	d := &decoder{buf: record}
	xid := d.uint32()
	d.fixed(4 * 4) // call, versions
	proc := d.uint32()
	d.uint32()
	d.opaque(maxTag) // credential
	d.uint32()
	d.opaque(maxTag) // verifier

	s.calls++
	fault := s.inject(s.calls)
	switch fault {
	case loseRequest:
		return nil
	case restartBefore:
		s.restartLocked(fakeDowntime)
		return nil
	}
	var results []byte
	if proc == procCompound {
		results = s.compound(d)
	}
	switch fault {
	case loseReply:
		return nil
	case restartAfter:
		s.restartLocked(fakeDowntime)
		return nil
	}
	var e encoder
	const msgReply, accepted, success = 1, 0, 0
	e.uint32(0, xid, msgReply, accepted, authNone, 0, success)
	e.buf = append(e.buf, results...)
	binary.BigEndian.PutUint32(e.buf, lastFragment|uint32(len(e.buf)-4))
	return e.buf
}

// fakeCall is one COMPOUND under way.
type fakeCall struct {
	*fakeServer
	*decoder
	current, saved string
}

func (s *fakeServer) compound(d *decoder) []byte {
	call := &fakeCall{fakeServer: s, decoder: d}
	d.opaque(maxTag)
	d.uint32() // minor version
	var (
		results encoder
		ran     uint32
		status  Status
	)
	for left := d.uint32(); left > 0 && status == OK; left-- {
		op := opcode(d.uint32())
		var out encoder
		if status = s.refuse(op); status == OK {
			status = call.execute(op, &out)
			s.executed[op]++
		}
		if d.err != nil {
			s.t.Errorf("%v: %v", op, d.err)
		}
		results.uint32(uint32(op), uint32(status))
		if status == OK {
			results.buf = append(results.buf, out.buf...)
		}
		ran++
	}
	var e encoder
	e.uint32(uint32(status), 0, ran)
	return append(e.buf, results.buf...)
}

func (c *fakeCall) grace() bool { return time.Now().Before(c.inGrace) }

func (c *fakeCall) execute(op opcode, out *encoder) Status {
	switch op {
	case opPutRootFH:
		c.current = fakeRoot
	case opPutFH:
		c.current = string(c.opaque(maxHandle))
		if c.files[c.current] == nil {
			return ErrStale
		}
	case opSaveFH:
		c.saved = c.current
	case opGetFH:
		out.string(c.current)
	case opLookup:
		handle, ok := c.names[c.string()]
		if !ok {
			return ErrNoEnt
		}
		c.current = handle
	case opGetAttr:
		c.fakeAttrs(out, c.attrSet(), c.current)
	case opSetClientID, opSetClientIDConfirm, opRenew:
		return c.lease(op, out)
	case opOpen, opOpenConfirm, opClose:
		return c.openState(op, out)
	case opRead, opWrite, opCommit, opSetAttr:
		return c.data(op, out)
	case opCreate, opRemove, opRename, opReadDir:
		return c.directory(op, out)
	default:
		c.t.Errorf("unexpected %v", op)
		return ErrOpIllegal
	}
	return OK
}

func (c *fakeCall) string() string { return string(c.opaque(maxName)) }

// fakeAttrs appends a fattr4 of the object with that handle.
func (s *fakeServer) fakeAttrs(out *encoder, set attrSet, handle string) {
	f := s.files[handle]
	var values encoder
	supported := set &^ (attrRdattrError | attrSpaceAvail | attrSpaceFree)
	for left := supported; left != 0; left &= left - 1 {
		switch which := attrSet(1) << bits.TrailingZeros64(uint64(left)); which {
		case attrType:
			kind := TypeRegular
			if f.directory {
				kind = TypeDirectory
			}
			values.uint32(uint32(kind))
		case attrSize:
			values.uint64(uint64(len(f.data)))
		case attrFSID:
			values.uint64(7)
			values.uint64(1)
		case attrMode:
			values.uint32(f.mode)
		case attrLeaseTime:
			values.uint32(uint32(fakeLease / time.Second))
		case attrFileID, attrSpaceTotal:
			values.uint64(42)
		case attrMaxRead, attrMaxWrite:
			values.uint64(fakeTransfer)
		case attrOwner, attrOwnerGroup:
			values.string("1000")
		default:
			s.t.Errorf("unexpected attribute %x", which)
		}
	}
	out.attrSet(supported)
	out.opaque(values.buf)
}
