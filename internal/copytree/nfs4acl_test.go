package copytree

import (
	"encoding/binary"
	"testing"
)

func aclOf(flags uint32, who ...string) []byte {
	acl := binary.BigEndian.AppendUint32(nil, uint32(len(who)))
	for _, w := range who {
		for _, word := range []uint32{0, flags, 0x1601bf, uint32(len(w))} {
			acl = binary.BigEndian.AppendUint32(acl, word)
		}
		acl = append(acl, w...)
		acl = append(acl, make([]byte, (4-len(w)%4)%4)...)
	}
	return acl
}

func TestACLThatIsNoMoreThanTheMode(t *testing.T) {
	plain := aclOf(0x40, "OWNER@", "GROUP@", "EVERYONE@")
	for name, c := range map[string]struct {
		acl  []byte
		want bool
	}{
		"of a mode":    {plain, true},
		"for a user":   {aclOf(0, "OWNER@", "1000", "GROUP@", "EVERYONE@"), false},
		"for a name":   {aclOf(0, "OWNER@example.org"), false},
		"inherited":    {aclOf(0x0b, "OWNER@"), false},
		"empty":        {nil, false},
		"a length":     {[]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}, false},
		"cut off":      {plain[:len(plain)-5], false},
		"without more": {plain[:20], false},
	} {
		if got := isMode(c.acl); got != c.want {
			t.Errorf("an ACL %s: %t", name, got)
		}
	}
}
