package copytree

import "encoding/binary"

// nfs4ACL is the attribute by which clients of NFSv4 show a file's ACL: every file has one.
const nfs4ACL = "system.nfs4_acl"

// isMode says that an ACL of NFSv4 says no more than the mode does: it has no entry for anybody
// else, and none that is inherited. The attribute is fattr4_acl as it is sent
// (RFC 7530, section 6.2.1): the number of entries, and of each its type, flags, mask
// and the length and text of whom it is for.
func isMode(acl []byte) bool {
	const inherited = 0xf // ACE4_FILE_INHERIT_ACE to ACE4_INHERIT_ONLY_ACE
	if len(acl) < 4 {
		return false
	}
	entries, acl := binary.BigEndian.Uint32(acl), acl[4:]
	for ; entries > 0; entries-- {
		if len(acl) < 16 {
			return false
		}
		flags, length := binary.BigEndian.Uint32(acl[4:]), int64(binary.BigEndian.Uint32(acl[12:]))
		padded := (length + 3) / 4 * 4
		if acl = acl[16:]; flags&inherited != 0 || padded > int64(len(acl)) {
			return false
		}
		switch string(acl[:length]) {
		case "OWNER@", "GROUP@", "EVERYONE@":
		default:
			return false
		}
		acl = acl[padded:]
	}
	return true
}
