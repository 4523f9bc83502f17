package nfs4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
)

// sample is an operation and a valid result of it.
type sample struct {
	name   string
	build  func(*compound)
	result func(*encoder)
}

// samples has every operation that has results.
func samples() []sample {
	fixed := func(n int) func(*encoder) {
		return func(e *encoder) { e.fixed(make([]byte, n)) }
	}
	attrs := func(e *encoder) {
		var values encoder
		values.uint32(uint32(TypeDirectory))
		values.uint64(4096)
		values.uint32(90, 0, 0o755)
		values.string("1000")
		e.attrSet(attrType | attrSize | attrLeaseTime | attrRdattrError | attrMode | attrOwner)
		e.opaque(values.buf)
	}
	return []sample{
		{"CLOSE", func(c *compound) { c.close(1, stateID{}) }, fixed(16)},
		{"COMMIT", func(c *compound) { c.commit(new(verifier)) }, fixed(8)},
		{"CREATE", func(c *compound) { c.makeDir("d", 0) }, func(e *encoder) {
			e.changeInfo()
			e.attrSet(attrMode)
		}},
		{"GETATTR", func(c *compound) { c.getAttr(statAttrs, new(Attr), new(serverAttr)) }, attrs},
		{"GETFH", func(c *compound) { c.getFH(new(handle)) }, func(e *encoder) { e.string("handle") }},
		{"OPEN", func(c *compound) { c.open(openArgs{}, new(openResult)) }, func(e *encoder) {
			e.fixed(make([]byte, 16))
			e.changeInfo()
			e.uint32(2)
			e.attrSet(attrMode)
			e.uint32(0)
		}},
		{"OPEN_CONFIRM", func(c *compound) { c.openConfirm(1, new(stateID)) }, fixed(16)},
		{"READ", func(c *compound) { c.read(stateID{}, 0, &readResult{p: make([]byte, 8)}) }, func(e *encoder) {
			e.uint32(1)
			e.string("content")
		}},
		{"READDIR", func(c *compound) { c.readDir(new(dirPage)) }, func(e *encoder) {
			e.uint64(7)
			e.uint32(1)
			e.uint64(3)
			e.string("name")
			attrs(e)
			e.uint32(0, 1)
		}},
		{"REMOVE", func(c *compound) { c.remove("f") }, (*encoder).changeInfo},
		{"RENAME", func(c *compound) { c.rename("f", "g") }, fixed(40)},
		{"SETATTR", func(c *compound) { c.setAttr(stateID{}, attrMode, Attr{}) }, func(e *encoder) { e.attrSet(attrMode) }},
		{"SETCLIENTID", func(c *compound) { c.setClientID(verifier{}, "n", new(uint64), new(verifier)) }, fixed(16)},
		{"WRITE", func(c *compound) { c.write(stateID{}, 0, make([]byte, 8), new(writeResult)) }, func(e *encoder) {
			e.uint32(5, 2)
			e.uint64(1)
		}},
	}
}

const sampleXID = 99

// reply returns a whole RPC reply with the given results of cmp's operations.
func reply(cmp *compound, results []byte) []byte {
	var e encoder
	e.uint32(sampleXID, 1, 0, authNone, 0, 0) // accepted
	e.uint32(uint32(OK), 0, uint32(len(cmp.ops)))
	for _, op := range cmp.ops {
		e.uint32(uint32(op.code), uint32(OK))
	}
	e.buf = append(e.buf, results...)
	return e.buf
}

func parse(cmp *compound, message []byte) error {
	d, err := parseReply(message, sampleXID)
	if err != nil {
		return err
	}
	return cmp.parse(d)
}

func (s sample) compound() *compound {
	cmp := newCompound(nil)
	s.build(cmp)
	return cmp
}

func TestTruncatedReplies(t *testing.T) {
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			var e encoder
			s.result(&e)
			whole := reply(s.compound(), e.buf)
			if err := parse(s.compound(), whole); err != nil {
				t.Fatal(err)
			}
			for n := range whole {
				if err := parse(s.compound(), whole[:n]); !errors.Is(err, ErrBadReply) {
					t.Errorf("%d of %d bytes: %v", n, len(whole), err)
				}
			}
			longer := append(slices.Clone(whole), 0, 0, 0, 0)
			if err := parse(s.compound(), longer); !errors.Is(err, ErrBadReply) {
				t.Errorf("left over bytes: %v", err)
			}
		})
	}
}

func TestHostileResults(t *testing.T) {
	const huge = 1<<32 - 1
	for _, test := range []struct {
		name   string
		op     string
		result func(*encoder)
	}{
		{"handle of 4 GB", "GETFH", func(e *encoder) { e.uint32(huge) }},
		{"handle too long", "GETFH", func(e *encoder) { e.opaque(make([]byte, maxHandle+1)) }},
		{"more data than asked for", "READ", func(e *encoder) { e.uint32(0); e.opaque(make([]byte, 9)) }},
		{"neither true nor false", "READ", func(e *encoder) { e.uint32(2, 0) }},
		{"more written than sent", "WRITE", func(e *encoder) { e.uint32(9, 2); e.uint64(1) }},
		{"nothing written", "WRITE", func(e *encoder) { e.uint32(0, 2); e.uint64(1) }},
		{"delegation", "OPEN", func(e *encoder) {
			e.fixed(make([]byte, 16))
			e.changeInfo()
			e.uint32(0, 0, 1)
		}},
		{"attribute set of 4 G words", "SETATTR", func(e *encoder) { e.uint32(huge) }},
		{"attribute 64", "GETATTR", func(e *encoder) { e.uint32(3, 0, 0, 1, 0) }},
		{"attribute 2", "GETATTR", func(e *encoder) { e.uint32(1, 1<<2, 4, 0) }},
		{"attributes too short", "GETATTR", func(e *encoder) { e.uint32(1, 1<<1, 0) }},
		{"attributes too long", "GETATTR", func(e *encoder) { e.uint32(1, 1<<1, 8, 1, 1) }},
		{"directory without end", "READDIR", func(e *encoder) { e.uint64(0); e.uint32(0, 0) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := samples()
			i := slices.IndexFunc(all, func(s sample) bool { return s.name == test.op })
			cmp := all[i].compound()
			var e encoder
			test.result(&e)
			if err := parse(cmp, reply(cmp, e.buf)); !errors.Is(err, ErrBadReply) {
				t.Errorf("got %v, want %v", err, ErrBadReply)
			}
		})
	}
}

func TestHostileCompounds(t *testing.T) {
	for _, test := range []struct {
		name string
		body []uint32
		want error
	}{
		{"failed", []uint32{uint32(ErrNoEnt), 0, 1, uint32(opRenew), uint32(ErrNoEnt)}, ErrNoEnt},
		{"refused as a whole", []uint32{uint32(ErrResource), 0, 0}, ErrResource},
		{"no results", []uint32{0, 0, 0}, ErrBadReply},
		{"two results", []uint32{0, 0, 2, uint32(opRenew), 0, uint32(opRenew), 0}, ErrBadReply},
		{"another operation", []uint32{0, 0, 1, uint32(opSaveFH), 0}, ErrBadReply},
		{"unknown status", []uint32{4711, 0, 1, uint32(opRenew), 4711}, Status(4711)},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmp := newCompound(nil)
			cmp.renew(1)
			var e encoder
			e.uint32(test.body...)
			if err := cmp.parse(&decoder{buf: e.buf}); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestParseReply(t *testing.T) {
	for _, test := range []struct {
		name  string
		words []uint32
		bad   bool // rather than an honest refusal
	}{
		{"another call", []uint32{sampleXID + 1, 1, 0, 0, 0, 0}, true},
		{"a call", []uint32{sampleXID, 0, 2, nfsProgram, nfsVersion, 0}, true},
		{"verifier too long", []uint32{sampleXID, 1, 0, 0, 401}, true},
		{"denied", []uint32{sampleXID, 1, 1, 1, 1}, false},
		{"program unavailable", []uint32{sampleXID, 1, 0, 0, 0, 1}, false},
		{"unknown accept status", []uint32{sampleXID, 1, 0, 0, 0, 77}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e encoder
			e.uint32(test.words...)
			_, err := parseReply(e.buf, sampleXID)
			if err == nil || errors.Is(err, ErrBadReply) != test.bad {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadRecord(t *testing.T) {
	fragment := func(mark uint32, data string) string {
		return string(binary.BigEndian.AppendUint32(nil, mark)) + data
	}
	for _, test := range []struct {
		name, stream, want string
		err                error
	}{
		{"one fragment", fragment(lastFragment|3, "abc"), "abc", nil},
		{"two fragments", fragment(2, "ab") + fragment(lastFragment|1, "c"), "abc", nil},
		{"closed", "", "", io.EOF},
		{"cut", fragment(lastFragment|3, "ab"), "", io.ErrUnexpectedEOF},
		{"no last fragment", fragment(2, "ab"), "", io.EOF},
		{"huge", fragment(lastFragment|(lastFragment-1), ""), "", ErrBadReply},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readRecord(bytes.NewReader([]byte(test.stream)))
			if string(got) != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %q, %v, want %q, %v", got, err, test.want, test.err)
			}
		})
	}
}

// FuzzReply feeds any bytes to each operation, as a whole reply and as its
// result.
func FuzzReply(f *testing.F) {
	for i, s := range samples() {
		var e encoder
		s.result(&e)
		f.Add(uint8(i), e.buf)
		f.Add(uint8(i), reply(s.compound(), e.buf))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		all := samples()
		s := all[int(which)%len(all)]
		for _, message := range [][]byte{data, reply(s.compound(), data)} {
			cmp := s.compound()
			err := parse(cmp, message)
			var failed *opError
			if err == nil && len(message) < 24 || errors.As(err, &failed) && failed.op != cmp.ops[0].code {
				t.Errorf("%s: %v from % x", s.name, err, message)
			}
		}
	})
}
