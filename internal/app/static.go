package app

import (
	"path/filepath"

	"github.com/berth-storage/berth/internal/backend/dir"
	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/export"
	"github.com/berth-storage/berth/internal/export/kernel"
	"github.com/berth-storage/berth/internal/kube"
	"github.com/berth-storage/berth/internal/static"
)

// openBook reads which export ids the pool's static directories have, now or before;
// nil if that cannot be read: then none of them is exported.
func (a *app) openBook(p *pool, ids *export.IDs) *static.Book {
	book, err := static.Open(filepath.Join(p.root, dir.Private, "static.json"), ids)
	if err != nil {
		a.log.Error("static directories are not exported", "pool", p.config.Name, "err", err)
	}
	return book
}

// exportStatic gives the exports of the pool's static directories, and has the front end
// publish these. One that cannot be exported is told of, and keeps no other from it.
func (a *app) exportStatic(p *pool, book *static.Book) (exports []export.Export) {
	if book == nil {
		return nil
	}
	var roots []string
	for _, other := range a.pools { // to look at one on another host can take for ever
		roots = append(roots, other.root)
	}
	p.front.Static = nil
	for _, s := range p.config.Static {
		d := static.Dir{Path: s.Path, ExportPath: s.ExportPath, ReadOnly: s.ReadOnly}
		var e export.Export
		err := static.Check(d, roots)
		if err == nil && p.config.Exporter == config.ExporterKernel {
			err = kernel.CheckDir(s.Path)
		}
		if err == nil {
			e, err = book.Export(d)
		}
		if err != nil {
			a.log.Error("a static directory is not exported", "pool", p.config.Name, "path", s.Path, "err", err)
			continue
		}
		e.Squash, e.Clients = p.front.Squash, p.clients
		exports = append(exports, e)
		p.front.Static = append(p.front.Static, kube.Static{
			Name: s.Name, Path: s.ExportPath, Capacity: s.Capacity, AccessModes: s.AccessModes,
			StorageClass: s.StorageClassName, MountOptions: s.MountOptions, ReadOnly: s.ReadOnly,
		})
	}
	return exports
}
