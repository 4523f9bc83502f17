package adopt

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-storage/berth/internal/volume"
)

// Adopter is a Pool that can have records of volumes that another program made.
type Adopter interface {
	Pool
	Adopt(ctx context.Context, v volume.Volume) (volume.Volume, error)
}

// Run adopts what Plan finds. A run that is cut off leaves records of what it got to;
// the next one goes on. An error means that not everything was done that could be.
func Run(ctx context.Context, pool Adopter, from From, pvs []PV, o Options) (Report, error) {
	r, err := Plan(ctx, pool, from, pvs, o)
	if err != nil {
		return r, err
	}
	planned := r.Adopt
	r.Adopt = nil
	for i, v := range planned {
		o.progress(Recording, i, len(planned))
		adopted, err := pool.Adopt(ctx, v)
		switch {
		case err == nil:
			r.Adopt = append(r.Adopt, adopted)
		case errors.Is(err, volume.ErrNotFound), errors.Is(err, volume.ErrForeign):
			// It has changed since it was looked at: somebody works there.
			r.Left = append(r.Left, Finding{PV: v.Name.String(), Err: err, Do: "stop what else works there, and adopt again"})
		default:
			return r, fmt.Errorf("adopting volume %s: %w", v.Name, err)
		}
	}
	return r, nil
}
