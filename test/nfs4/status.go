package nfs4

import (
	"fmt"
	"io/fs"
)

// Status is an nfsstat4, the outcome of one operation (RFC 7530 section 13).
// A Status other than OK is an error: errors.Is(err, nfs4.ErrStale) finds it
// in what this package returns, and errors.Is with fs.ErrNotExist, fs.ErrExist
// or fs.ErrPermission works too.
type Status uint32 //nolint:errname // it is nfsstat4, of which most values are errors

// The outcomes that RFC 7531 defines.
const (
	OK                   Status = 0
	ErrPerm              Status = 1
	ErrNoEnt             Status = 2
	ErrIO                Status = 5
	ErrNxIO              Status = 6
	ErrAccess            Status = 13
	ErrExist             Status = 17
	ErrXDev              Status = 18
	ErrNotDir            Status = 20
	ErrIsDir             Status = 21
	ErrInval             Status = 22
	ErrFBig              Status = 27
	ErrNoSpc             Status = 28
	ErrROFS              Status = 30
	ErrMLink             Status = 31
	ErrNameTooLong       Status = 63
	ErrNotEmpty          Status = 66
	ErrDQuot             Status = 69
	ErrStale             Status = 70
	ErrBadHandle         Status = 10001
	ErrBadCookie         Status = 10003
	ErrNotSupp           Status = 10004
	ErrTooSmall          Status = 10005
	ErrServerFault       Status = 10006
	ErrBadType           Status = 10007
	ErrDelay             Status = 10008
	ErrSame              Status = 10009
	ErrDenied            Status = 10010
	ErrExpired           Status = 10011
	ErrLocked            Status = 10012
	ErrGrace             Status = 10013
	ErrFHExpired         Status = 10014
	ErrShareDenied       Status = 10015
	ErrWrongSec          Status = 10016
	ErrClidInUse         Status = 10017
	ErrResource          Status = 10018
	ErrMoved             Status = 10019
	ErrNoFileHandle      Status = 10020
	ErrMinorVersMismatch Status = 10021
	ErrStaleClientID     Status = 10022
	ErrStaleStateID      Status = 10023
	ErrOldStateID        Status = 10024
	ErrBadStateID        Status = 10025
	ErrBadSeqID          Status = 10026
	ErrNotSame           Status = 10027
	ErrLockRange         Status = 10028
	ErrSymlink           Status = 10029
	ErrRestoreFH         Status = 10030
	ErrLeaseMoved        Status = 10031
	ErrAttrNotSupp       Status = 10032
	ErrNoGrace           Status = 10033
	ErrReclaimBad        Status = 10034
	ErrReclaimConflict   Status = 10035
	ErrBadXDR            Status = 10036
	ErrLocksHeld         Status = 10037
	ErrOpenMode          Status = 10038
	ErrBadOwner          Status = 10039
	ErrBadChar           Status = 10040
	ErrBadName           Status = 10041
	ErrBadRange          Status = 10042
	ErrLockNotSupp       Status = 10043
	ErrOpIllegal         Status = 10044
	ErrDeadlock          Status = 10045
	ErrFileOpen          Status = 10046
	ErrAdminRevoked      Status = 10047
	ErrCBPathDown        Status = 10048
)

var statusNames = map[Status]string{
	OK:                   "NFS4_OK",
	ErrPerm:              "NFS4ERR_PERM",
	ErrNoEnt:             "NFS4ERR_NOENT",
	ErrIO:                "NFS4ERR_IO",
	ErrNxIO:              "NFS4ERR_NXIO",
	ErrAccess:            "NFS4ERR_ACCESS",
	ErrExist:             "NFS4ERR_EXIST",
	ErrXDev:              "NFS4ERR_XDEV",
	ErrNotDir:            "NFS4ERR_NOTDIR",
	ErrIsDir:             "NFS4ERR_ISDIR",
	ErrInval:             "NFS4ERR_INVAL",
	ErrFBig:              "NFS4ERR_FBIG",
	ErrNoSpc:             "NFS4ERR_NOSPC",
	ErrROFS:              "NFS4ERR_ROFS",
	ErrMLink:             "NFS4ERR_MLINK",
	ErrNameTooLong:       "NFS4ERR_NAMETOOLONG",
	ErrNotEmpty:          "NFS4ERR_NOTEMPTY",
	ErrDQuot:             "NFS4ERR_DQUOT",
	ErrStale:             "NFS4ERR_STALE",
	ErrBadHandle:         "NFS4ERR_BADHANDLE",
	ErrBadCookie:         "NFS4ERR_BAD_COOKIE",
	ErrNotSupp:           "NFS4ERR_NOTSUPP",
	ErrTooSmall:          "NFS4ERR_TOOSMALL",
	ErrServerFault:       "NFS4ERR_SERVERFAULT",
	ErrBadType:           "NFS4ERR_BADTYPE",
	ErrDelay:             "NFS4ERR_DELAY",
	ErrSame:              "NFS4ERR_SAME",
	ErrDenied:            "NFS4ERR_DENIED",
	ErrExpired:           "NFS4ERR_EXPIRED",
	ErrLocked:            "NFS4ERR_LOCKED",
	ErrGrace:             "NFS4ERR_GRACE",
	ErrFHExpired:         "NFS4ERR_FHEXPIRED",
	ErrShareDenied:       "NFS4ERR_SHARE_DENIED",
	ErrWrongSec:          "NFS4ERR_WRONGSEC",
	ErrClidInUse:         "NFS4ERR_CLID_INUSE",
	ErrResource:          "NFS4ERR_RESOURCE",
	ErrMoved:             "NFS4ERR_MOVED",
	ErrNoFileHandle:      "NFS4ERR_NOFILEHANDLE",
	ErrMinorVersMismatch: "NFS4ERR_MINOR_VERS_MISMATCH",
	ErrStaleClientID:     "NFS4ERR_STALE_CLIENTID",
	ErrStaleStateID:      "NFS4ERR_STALE_STATEID",
	ErrOldStateID:        "NFS4ERR_OLD_STATEID",
	ErrBadStateID:        "NFS4ERR_BAD_STATEID",
	ErrBadSeqID:          "NFS4ERR_BAD_SEQID",
	ErrNotSame:           "NFS4ERR_NOT_SAME",
	ErrLockRange:         "NFS4ERR_LOCK_RANGE",
	ErrSymlink:           "NFS4ERR_SYMLINK",
	ErrRestoreFH:         "NFS4ERR_RESTOREFH",
	ErrLeaseMoved:        "NFS4ERR_LEASE_MOVED",
	ErrAttrNotSupp:       "NFS4ERR_ATTRNOTSUPP",
	ErrNoGrace:           "NFS4ERR_NO_GRACE",
	ErrReclaimBad:        "NFS4ERR_RECLAIM_BAD",
	ErrReclaimConflict:   "NFS4ERR_RECLAIM_CONFLICT",
	ErrBadXDR:            "NFS4ERR_BADXDR",
	ErrLocksHeld:         "NFS4ERR_LOCKS_HELD",
	ErrOpenMode:          "NFS4ERR_OPENMODE",
	ErrBadOwner:          "NFS4ERR_BADOWNER",
	ErrBadChar:           "NFS4ERR_BADCHAR",
	ErrBadName:           "NFS4ERR_BADNAME",
	ErrBadRange:          "NFS4ERR_BAD_RANGE",
	ErrLockNotSupp:       "NFS4ERR_LOCK_NOTSUPP",
	ErrOpIllegal:         "NFS4ERR_OP_ILLEGAL",
	ErrDeadlock:          "NFS4ERR_DEADLOCK",
	ErrFileOpen:          "NFS4ERR_FILE_OPEN",
	ErrAdminRevoked:      "NFS4ERR_ADMIN_REVOKED",
	ErrCBPathDown:        "NFS4ERR_CB_PATH_DOWN",
}

// Error returns the protocol's name of s, such as NFS4ERR_STALE.
func (s Status) Error() string {
	if name, ok := statusNames[s]; ok {
		return name
	}
	return fmt.Sprintf("NFS4ERR_%d", uint32(s))
}

// Is makes the common outcomes equal to those of package fs.
func (s Status) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return s == ErrNoEnt
	case fs.ErrExist:
		return s == ErrExist
	case fs.ErrPermission:
		return s == ErrPerm || s == ErrAccess
	}
	return false
}
