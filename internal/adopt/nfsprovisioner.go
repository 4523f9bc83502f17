package adopt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/berth-storage/berth/internal/export"
)

// NFSProvisioner is the name of the program whose volumes this package takes over: of
// its first version, of 1.0.3 and of nfs-ganesha-server-and-external-provisioner.
const NFSProvisioner = "nfs-provisioner"

// What nfs-provisioner keeps in its export folder.
const (
	identityFile = "nfs-provisioner.identity"
	ganeshaFile  = "vfs.conf"
	projectsFile = "projects"

	maxFile = 64 << 20 // 65,535 exports of 1 KiB each
)

// reservedID is the id that nfs-provisioner's heir gives to nobody: its Filesystem_Id
// is that of the server's own root, so that NFSv4 clients could not tell the two apart.
const reservedID = 152

// Export is one directory that the other program exported.
type Export struct {
	ID     export.ID
	Path   string // what clients mount, and where it lies on the disk
	Squash export.Squash
}

// project is a quota that the other program set.
type project struct {
	ID    uint32
	Bytes uint64
}

// State is what nfs-provisioner left on the disk, as far as it can be understood.
type State struct {
	Identity string // in the PersistentVolumes as Provisioner_Id; "": it had none
	// DeviceFSIDs says that its file handles name file systems by device number.
	DeviceFSIDs bool
	// Problems are what could not be read; the rest stands.
	Problems []error

	exports  map[string]Export // by path
	odd      map[string]error  // by path: exports that are not as it wrote them
	ids      map[export.ID]string
	projects map[string]project // by path
	shared   map[uint32]bool    // projects of two paths
	found    bool
}

// Found says whether there is anything of nfs-provisioner.
func (s *State) Found() bool { return s.found }

// ReadNFSProvisioner reads what nfs-provisioner left in its export folder. What it
// exported stands there too, in vfs.conf, or, if it exported by the kernel, in
// exportsFile (/etc/exports; "": it did not). An error means that a file that is there
// could not be read at all.
func ReadNFSProvisioner(folder, exportsFile string) (*State, error) {
	s := &State{exports: map[string]Export{}, odd: map[string]error{}, ids: map[export.ID]string{}, projects: map[string]project{}, shared: map[uint32]bool{}}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, f := range []struct {
		name string
		read func(string) error
	}{{identityFile, s.readIdentity}, {ganeshaFile, s.readGanesha}, {projectsFile, s.readProjects}} {
		if f.name == ganeshaFile && exportsFile != "" {
			continue // its ids are those of another server
		}
		text, err := readOwn(root, f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Its projects alone say nothing: an administrator's file may be called so.
		s.found = s.found || f.name != projectsFile
		if err := f.read(text); err != nil {
			s.Problems = append(s.Problems, fmt.Errorf("%s: %w", path.Join(folder, f.name), err))
		}
	}
	if exportsFile != "" {
		text, err := readFile(os.Open(exportsFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s.readKernel(text)
	}
	return s, nil
}

// readOwn reads a file that nfs-provisioner keeps itself, which no link leads to.
func readOwn(root *os.Root, name string) (string, error) {
	info, err := root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path.Join(root.Name(), name))
	}
	if err != nil {
		return "", err
	}
	return readFile(root.Open(name))
}

func readFile(f *os.File, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), maxFile)
	}
	return string(text), err
}

func (s *State) readIdentity(text string) error {
	id := strings.TrimSpace(text)
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return fmt.Errorf("%.64q is not a UUID", id)
	}
	s.Identity = id
	return nil
}

// readGanesha reads vfs.conf. A file that was cut off in the middle of a write gives
// the exports before that, and an error.
func (s *State) readGanesha(text string) error {
	blocks, err := parseConfig(text)
	for _, b := range blocks {
		switch b.name {
		case "nfs_core_param":
			s.DeviceFSIDs = isTrue(b.params["fsid_device"])
		case "export":
			if b.params["export_id"] == "0" { // the root of the server's own tree
				continue
			}
			e, err := ganeshaExport(b)
			s.add(b.params["path"], e, err)
		}
	}
	return err
}

// isTrue reads a boolean as NFS-Ganesha does.
func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true
	}
	return false
}

func (s *State) add(dir string, e Export, err error) {
	if err != nil {
		s.odd[dir] = err
		return
	}
	if old, twice := s.exports[e.Path]; twice && old != e {
		s.odd[e.Path] = fmt.Errorf("it is exported twice, as %d and as %d", old.ID, e.ID)
	}
	if other, taken := s.ids[e.ID]; taken && other != e.Path {
		err := fmt.Errorf("export id %d is given to %s and to %s", e.ID, other, e.Path)
		s.odd[e.Path], s.odd[other] = err, err
	}
	s.exports[e.Path], s.ids[e.ID] = e, e.Path
}

// ganeshaExport reads a block exactly as nfs-provisioner writes them. What somebody
// changed by hand means something that Berth would not do.
func ganeshaExport(b block) (e Export, err error) {
	id := b.params["export_id"]
	if e.ID, err = parseID(id); err != nil {
		return e, err
	}
	e.Path = b.params["path"]
	if !strings.HasPrefix(e.Path, "/") {
		return e, fmt.Errorf("Path %q is not absolute", e.Path) //nolint:staticcheck // the parameter's name
	}
	for name, value := range b.params {
		right := true
		switch name {
		case "export_id", "path":
		case "pseudo":
			right = value == e.Path
		case "access_type":
			right = strings.EqualFold(value, "RW")
		case "sectype":
			right = strings.EqualFold(value, "sys")
		case "filesystem_id":
			right = value == id+"."+id
		case "squash":
			e.Squash, right = ganeshaSquash(value)
		default:
			right = false
		}
		if !right {
			return e, fmt.Errorf("its export has %s = %s, which nfs-provisioner did not write", name, value)
		}
	}
	for _, name := range []string{"pseudo", "access_type", "squash", "filesystem_id"} {
		if _, has := b.params[name]; !has {
			return e, fmt.Errorf("its export has no %s", name)
		}
	}
	if len(b.blocks) != 1 || b.blocks[0].name != "fsal" || len(b.blocks[0].blocks) > 0 ||
		len(b.blocks[0].params) != 1 || !strings.EqualFold(b.blocks[0].params["name"], "VFS") {
		return e, errors.New("its export has other blocks in it than FSAL { Name = VFS; }")
	}
	return e, nil
}

func ganeshaSquash(value string) (export.Squash, bool) {
	switch strings.ToLower(value) {
	case "no_root_squash":
		return export.SquashNone, true
	case "root_id_squash", "root_squash":
		return export.SquashRoot, true
	}
	return "", false
}

// readKernel reads the lines of exports(5) that nfs-provisioner wrote. The file is the
// administrator's, so that other lines are none of Berth's business.
func (s *State) readKernel(text string) {
	for line := range strings.Lines(text) {
		if e, err := kernelExport(line); err == nil {
			s.add(e.Path, e, nil)
		}
	}
}

// kernelExport reads a line as nfs-provisioner writes them:
//
//	/export/pvc-… *(rw,insecure,no_root_squash,fsid=7)
//
// Who may mount is the pool's to say.
func kernelExport(line string) (e Export, err error) {
	dir, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	client, options, _ := strings.Cut(rest, "(")
	options, found := strings.CutSuffix(options, ")")
	if !found || !strings.HasPrefix(dir, "/") || client == "" || strings.ContainsAny(client+options, " \t()\\") {
		return e, fmt.Errorf("%.100q is not a line that nfs-provisioner writes", line)
	}
	e.Path = dir
	words := strings.Split(options, ",")
	if len(words) != 4 || words[0] != "rw" || words[1] != "insecure" {
		return e, fmt.Errorf("options %.100q are not those that nfs-provisioner writes", options)
	}
	switch words[2] {
	case "no_root_squash":
		e.Squash = export.SquashNone
	case "root_squash":
		e.Squash = export.SquashRoot
	default:
		return e, fmt.Errorf("option %.64q is not one that nfs-provisioner writes", words[2])
	}
	id, found := strings.CutPrefix(words[3], "fsid=")
	if !found {
		return e, fmt.Errorf("options %.100q name no fsid", options)
	}
	e.ID, err = parseID(id)
	return e, err
}

// parseID reads an export id as nfs-provisioner writes them: decimal, without signs or
// leading zeros.
func parseID(s string) (export.ID, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case err != nil || strconv.FormatUint(n, 10) != s:
		return 0, fmt.Errorf("export id %.32q is not a number from 1 to 65535", s)
	case n == 0:
		return 0, errors.New("export id 0 is the server's own")
	case n == reservedID:
		return 0, fmt.Errorf("export id %d: NFSv4 clients cannot tell it from the server's root", n)
	}
	return export.ID(n), nil
}

// exportText reads the one export that an annotation of a PersistentVolume describes,
// in either form.
func exportText(text string) (Export, error) {
	if e, err := kernelExport(text); err == nil {
		return e, nil
	}
	blocks, err := parseConfig(text)
	if err != nil {
		return Export{}, err
	}
	if len(blocks) != 1 || blocks[0].name != "export" {
		return Export{}, errors.New("it is not exactly one block EXPORT")
	}
	return ganeshaExport(blocks[0])
}

// readProjects reads the lines "id:directory:bytes". Limits are what the file system says.
func (s *State) readProjects(text string) error {
	var failed error
	users := map[uint32]string{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		dir, p, err := parseProject(line)
		if err != nil {
			failed = err // one is enough to tell of
			continue
		}
		if other, used := users[p.ID]; used && other != dir {
			s.shared[p.ID] = true
		}
		s.projects[dir], users[p.ID] = p, dir
	}
	return failed
}

func parseProject(line string) (dir string, p project, err error) {
	id, rest, _ := strings.Cut(line, ":")
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return "", p, fmt.Errorf("%.100q is not a line like 7:/export/pvc-1:1048576", line)
	}
	n, err := strconv.ParseUint(id, 10, 16)
	if err != nil || n == 0 {
		return "", p, fmt.Errorf("project %.32q is not a number from 1 to 65535", id)
	}
	if p.Bytes, err = strconv.ParseUint(rest[i+1:], 10, 63); err != nil {
		return "", p, fmt.Errorf("limit %.32q of project %d is not a number of bytes", rest[i+1:], n)
	}
	p.ID = uint32(n)
	return rest[:i], p, nil
}
