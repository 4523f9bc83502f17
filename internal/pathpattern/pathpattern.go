// Package pathpattern makes the path of a volume from a template and its claim, as
// the StorageClass parameter pathPattern of nfs-subdir-external-provisioner does:
//
//	${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path:-${.PV.name}}
//
// What tenants write into labels and annotations becomes part of a path here, so
// every result goes through volume.ParseRelPath.
package pathpattern

import (
	"fmt"
	"strings"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// Values are what a pattern can refer to.
type Values struct {
	Namespace, Name     string            // of the claim
	Labels, Annotations map[string]string // of the claim
	Volume              string            // name of the PersistentVolume
}

// Pattern is a template that was found to be well-formed.
type Pattern struct {
	text  string
	parts []part
}

// part is fixed text, or a reference with the text that stands for an empty value.
type part struct {
	text     string
	field    string // as in ".PVC.labels."; "" for fixed text
	key      string // of a label or annotation
	fallback []part
}

// The references that there are; the last two take a key.
const (
	fieldNamespace   = ".PVC.namespace"
	fieldName        = ".PVC.name"
	fieldVolume      = ".PV.name"
	fieldLabels      = ".PVC.labels."
	fieldAnnotations = ".PVC.annotations."
)

var fields = []string{fieldNamespace, fieldName, fieldVolume, fieldLabels + "KEY", fieldAnnotations + "KEY"}

// maxPattern is the most bytes that a pattern may have. A result is at most as long
// as volume.ParseRelPath allows.
const maxPattern = 4096

// maxDepth is how deep a fallback may have fallbacks.
const maxDepth = 8

// Parse reads a pattern. A reference to something that does not exist is an error
// that names the nearest right one: with an empty text in its place, as the original
// has it, volumes would land where nobody looks for them.
func Parse(text string) (Pattern, error) {
	if text == "" || len(text) > maxPattern {
		return Pattern{}, fmt.Errorf("%w: pathPattern has %d bytes, 1 to %d are possible", volume.ErrInvalid, len(text), maxPattern)
	}
	p := parser{rest: text}
	parts, err := p.parts(0)
	if err != nil {
		return Pattern{}, fmt.Errorf("%w: pathPattern %.200q: %w", volume.ErrInvalid, text, err)
	}
	return Pattern{text, parts}, nil
}

type parser struct{ rest string }

// parts reads up to the end of the text or, inside of a reference, to its brace.
func (p *parser) parts(depth int) ([]part, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d references in each other", maxDepth)
	}
	var parts []part
	for p.rest != "" && (depth == 0 || p.rest[0] != '}') {
		if reference, found := strings.CutPrefix(p.rest, "${"); found {
			p.rest = reference
			ref, err := p.reference(depth)
			if err != nil {
				return nil, err
			}
			parts = append(parts, ref)
			continue
		}
		end := len(p.rest)
		if i := strings.Index(p.rest[1:], "${"); i >= 0 {
			end = i + 1
		}
		if i := strings.IndexByte(p.rest[:end], '}'); i >= 0 && depth > 0 {
			end = i
		}
		parts = append(parts, part{text: p.rest[:end]})
		p.rest = p.rest[end:]
	}
	return parts, nil
}

// reference reads what follows "${", and its brace.
func (p *parser) reference(depth int) (part, error) {
	end := strings.IndexByte(p.rest, '}')
	if end < 0 {
		return part{}, fmt.Errorf("${%.64s has no closing brace", p.rest)
	}
	name, _, hasFallback := strings.Cut(p.rest[:end], ":-")
	ref, err := parseField(name)
	if err != nil {
		return part{}, err
	}
	p.rest = p.rest[len(name):]
	if hasFallback {
		p.rest = p.rest[len(":-"):]
		if ref.fallback, err = p.parts(depth + 1); err != nil {
			return part{}, err
		}
		if p.rest == "" {
			return part{}, fmt.Errorf("${%s:-… has no closing brace", name)
		}
	}
	p.rest = p.rest[len("}"):]
	return ref, nil
}

func parseField(name string) (part, error) {
	switch name {
	case fieldNamespace, fieldName, fieldVolume:
		return part{field: name}, nil
	}
	for _, field := range []string{fieldLabels, fieldAnnotations} {
		if key, found := strings.CutPrefix(name, field); found && key != "" {
			return part{field: field, key: key}, nil
		}
	}
	return part{}, fmt.Errorf("there is no ${%.64s}%s", name, suggest.Nearest(name, fields))
}

func (p Pattern) String() string { return p.text }

// Path fills in v. Slashes at the end and several in a row count as one, as in the
// original. ok is false if nothing is left, and the default path is to be used. The
// error shows the pattern, the result, and what is wrong with it.
func (p Pattern) Path(v Values) (path volume.RelPath, ok bool, err error) {
	text := expand(p.parts, v)
	var elements []string
	for element := range strings.SplitSeq(text, "/") {
		if element != "" {
			elements = append(elements, element)
		}
	}
	clean := strings.Join(elements, "/")
	if strings.HasPrefix(text, "/") && clean != "" {
		clean = "/" + clean // absolute: refused below, with the others
	}
	if clean == "" {
		return volume.RelPath{}, false, nil
	}
	if path, err = volume.ParseRelPath(clean); err != nil {
		return volume.RelPath{}, false, fmt.Errorf("pathPattern %.200q gives %.300q for this claim: %w", p.text, text, err)
	}
	return path, true, nil
}

func expand(parts []part, v Values) string {
	var b strings.Builder
	for _, p := range parts {
		text := p.text
		if p.field != "" {
			if text = p.value(v); text == "" {
				text = expand(p.fallback, v)
			}
		}
		b.WriteString(text)
	}
	return b.String()
}

// value is what a reference stands for. A label or annotation that is missing is empty.
func (p part) value(v Values) string {
	switch p.field {
	case fieldNamespace:
		return v.Namespace
	case fieldName:
		return v.Name
	case fieldVolume:
		return v.Volume
	case fieldLabels:
		return v.Labels[p.key]
	default:
		return v.Annotations[p.key]
	}
}
