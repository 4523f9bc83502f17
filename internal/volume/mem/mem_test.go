package mem_test

import (
	"testing"

	"github.com/berth-storage/berth/internal/volume"
	"github.com/berth-storage/berth/internal/volume/mem"
	"github.com/berth-storage/berth/internal/volume/volumetest"
)

func TestContract(t *testing.T) {
	volumetest.Suite{
		Open:   func(*testing.T) volume.Backend { return new(mem.Backend) },
		Reopen: func(_ *testing.T, b volume.Backend) volume.Backend { return b },
	}.Run(t)
}
