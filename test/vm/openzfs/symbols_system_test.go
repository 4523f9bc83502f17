//go:build system

package openzfs

import (
	"bytes"
	"strings"
	"testing"
)

// The installed kernel lets modules use what these need.
func TestSymbolsOfAKernel(t *testing.T) {
	var symbols bytes.Buffer
	if err := writeSymbols(&symbols, "/usr/bin/linux.uml"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"0x00000000\tkmem_cache_alloc\tvmlinux\tEXPORT_SYMBOL\t\n",
		"0x00000000\tbio_add_page\tvmlinux\tEXPORT_SYMBOL\t\n",
		"0x00000000\t__kthread_init_worker\tvmlinux\tEXPORT_SYMBOL_GPL\t\n",
	} {
		if !strings.Contains(symbols.String(), want) {
			t.Errorf("%q is not among %d symbols", want, bytes.Count(symbols.Bytes(), []byte("\n")))
		}
	}
	if err := writeSymbols(&symbols, "/bin/true"); err == nil {
		t.Error("a program that is no kernel has symbols for modules")
	}
}
