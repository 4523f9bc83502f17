package openzfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// writeSymbols writes what a kernel lets modules use, as the file Module.symvers that
// building a kernel leaves behind; see "Building External Modules" in the kernel's
// documentation. Debian does not ship that file for User-Mode Linux, and a stripped kernel
// has the same in its sections. The kernel must have no MODVERSIONS: checksums are 0.
func writeSymbols(to io.Writer, kernel string) error {
	f, err := elf.Open(kernel)
	if err != nil {
		return err
	}
	defer f.Close()
	for section, kind := range map[string]string{"__ksymtab": "EXPORT_SYMBOL", "__ksymtab_gpl": "EXPORT_SYMBOL_GPL"} {
		if err := writeSection(to, f, section, kind); err != nil {
			return fmt.Errorf("reading the symbols of %s: %w", kernel, err)
		}
	}
	return nil
}

// symbol is the kernel's struct kernel_symbol, of pointers.
type symbol struct{ Value, Name, Namespace uint64 }

func writeSection(to io.Writer, f *elf.File, name, kind string) error {
	section := f.Section(name)
	if section == nil {
		return fmt.Errorf("it has no section %s", name)
	}
	data, err := section.Data()
	if err != nil {
		return err
	}
	symbols := make([]symbol, len(data)/binary.Size(symbol{}))
	if err := binary.Read(bytes.NewReader(data), f.ByteOrder, symbols); err != nil {
		return err
	}
	for _, s := range symbols {
		name, err := text(f, s.Name)
		if err != nil {
			return err
		}
		namespace := ""
		if s.Namespace != 0 {
			if namespace, err = text(f, s.Namespace); err != nil {
				return err
			}
		}
		fmt.Fprintf(to, "0x00000000\t%s\tvmlinux\t%s\t%s\n", name, kind, namespace)
	}
	return nil
}

// text is the string at an address.
func text(f *elf.File, address uint64) (string, error) {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_PROGBITS || address < s.Addr || address >= s.Addr+s.Size {
			continue
		}
		part := make([]byte, min(s.Addr+s.Size-address, 256))
		if _, err := s.ReadAt(part, int64(address-s.Addr)); err != nil {
			return "", err
		}
		name, _, ended := bytes.Cut(part, []byte{0})
		if !ended {
			return "", fmt.Errorf("the string at %#x does not end", address)
		}
		return string(name), nil
	}
	return "", fmt.Errorf("there is nothing at %#x", address)
}
