package btrfs

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/btrfs.h.
const (
	syncAll      = 0x9408
	subvolCreate = 0x5000940e
	snapDestroy  = 0x5000940f
	treeSearch   = 0xd0009411
	inoLookup    = 0xd0009412
	waitSync     = 0x40089416
	snapCreate   = 0x50009417 // version 2
	startSync    = 0x80089418
	qgroupCreate = 0x4010942a // and remove
	qgroupLimit  = 0x8030942b

	subvolGetFlags = 0x80089419
	subvolSetFlags = 0x4008941a
)

// subvolReadOnly is BTRFS_SUBVOL_RDONLY.
const subvolReadOnly = 1 << 1

// Numbers of linux/btrfs_tree.h.
const (
	rootTree  = 1
	quotaTree = 8

	rootItem        = 132
	qgroupStatus    = 240
	qgroupInfoItem  = 242
	qgroupLimitItem = 244

	statusOn = 1 << 0 // BTRFS_QGROUP_STATUS_FLAG_ON

	limitReferenced = 1 << 0     // BTRFS_QGROUP_LIMIT_MAX_RFER
	noLimit         = ^uint64(0) // (u64)-1 clears a limit
)

// volumeArgs is struct btrfs_ioctl_vol_args.
type volumeArgs struct {
	_    int64
	name [4088]byte
}

// snapshotArgs is struct btrfs_ioctl_vol_args_v2.
type snapshotArgs struct {
	source int64
	_      uint64
	flags  uint64
	_      [4]uint64
	name   [4040]byte
}

// lookupArgs is struct btrfs_ioctl_ino_lookup_args.
type lookupArgs struct {
	tree, object uint64
	_            [4080]byte
}

// limitArgs is struct btrfs_ioctl_qgroup_limit_args.
type limitArgs struct {
	qgroup                uint64
	flags                 uint64
	referenced, exclusive uint64
	_                     [2]uint64
}

// qgroupArgs is struct btrfs_ioctl_qgroup_create_args.
type qgroupArgs struct{ create, qgroup uint64 }

// searchArgs is struct btrfs_ioctl_search_args.
type searchArgs struct {
	tree                           uint64
	objectMin, objectMax           uint64
	offsetMin, offsetMax           uint64
	transactionMin, transactionMax uint64
	kindMin, kindMax               uint32
	items                          uint32
	_                              uint32
	_                              [4]uint64
	buffer                         [3992]byte
}

// searchHeaderSize is the size of struct btrfs_ioctl_search_header, which comes before
// each item that is found.
const searchHeaderSize = 32

// searchKey is an item's key in a tree.
type searchKey struct {
	object    uint64
	kind      uint32
	offset    uint64
	anyOffset bool
}

// item is an item's content, in little-endian words of 64 bits.
type item []byte

// word gives the word number i, 0 past the end.
func (b item) word(i int) uint64 {
	if len(b) < 8*i+8 {
		return 0
	}
	return binary.LittleEndian.Uint64(b[8*i:])
}

// errNoItem: the tree is there and has no such item.
var errNoItem = errors.New("no such item")

// search finds the item with that key. unix.ENOENT: there is no such tree.
func search(dir *os.File, tree uint64, k searchKey) (item, error) {
	a := searchArgs{
		tree: tree, objectMin: k.object, objectMax: k.object, kindMin: k.kind, kindMax: k.kind,
		offsetMin: k.offset, offsetMax: k.offset, transactionMax: math.MaxUint64, items: 1,
	}
	if k.anyOffset {
		a.offsetMax = math.MaxUint64
	}
	if err := call(dir, treeSearch, unsafe.Pointer(&a)); err != nil {
		return nil, err
	}
	if a.items == 0 {
		return nil, errNoItem
	}
	length := binary.NativeEndian.Uint32(a.buffer[searchHeaderSize-4:])
	end := min(searchHeaderSize+int(length), len(a.buffer))
	return item(a.buffer[searchHeaderSize:end]), nil
}

func call(f *os.File, request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
