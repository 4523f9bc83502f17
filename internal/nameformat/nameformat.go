// Package nameformat gives PersistentVolumes names that tell people of their claims, as
// openshift-pvmanager does.
package nameformat

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// maxLength is that of a volume's name; see volume.ParseName.
const maxLength = 200

// The words of a Format, each under pvmanager's name and a shorter one.
const (
	wordClass     = "sc"
	wordNamespace = "pvmanager.wimsey.us/pvc-namespace"
	wordClaim     = "pvmanager.wimsey.us/pvc-name"
	wordTag       = "PVMANAGER-PV-TAG"
)

var (
	word       = regexp.MustCompile(`\{([^{}]*)\}`)
	shortWords = map[string]string{"class": wordClass, "namespace": wordNamespace, "name": wordClaim, "tag": wordTag}
	// A name of an object; see https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// Format says how the PersistentVolumes of a pool, and so its volumes, are named.
type Format struct{ text string }

// Parse reads a text with words in braces, as pvmanager's pvNameFormat has
// them: {sc} or {class}, {pvmanager.wimsey.us/pvc-namespace} or {namespace},
// {pvmanager.wimsey.us/pvc-name} or {name}, and {PVMANAGER-PV-TAG} or {tag}, eight
// characters of the claim's uid, which it must have: two claims of one name, of which one is
// deleted, have two volumes.
func Parse(text string) (Format, error) {
	f := Format{word.ReplaceAllStringFunc(text, func(word string) string {
		if name, short := shortWords[strings.Trim(word, "{}")]; short {
			return "{" + name + "}"
		}
		return word
	})}
	known := []string{wordClass, wordNamespace, wordClaim, wordTag, "class", "namespace", "name", "tag"}
	for _, m := range word.FindAllStringSubmatch(f.text, -1) {
		switch m[1] {
		case wordClass, wordNamespace, wordClaim, wordTag:
		default:
			return Format{}, fmt.Errorf("%w: name format %.200q: {%s} is unknown%s", volume.ErrInvalid, text, m[1], suggest.Nearest(m[1], known))
		}
	}
	if !strings.Contains(f.text, "{"+wordTag+"}") {
		return Format{}, fmt.Errorf("%w: name format %.200q: lacks {%s}, by which the volumes of claims that follow each other under one name differ",
			volume.ErrInvalid, text, wordTag)
	}
	if example := f.fill("c", "n", "p", "0"); !objectName.MatchString(example) || len(example) > maxLength/2 {
		return Format{}, fmt.Errorf("%w: name format %.200q gives names like %.200q: they have small letters, digits, '-' and '.', and begin and end with one of the first two",
			volume.ErrInvalid, text, example)
	}
	return f, nil
}

func (f Format) fill(class, namespace, claim, tag string) string {
	return strings.NewReplacer("{"+wordClass+"}", class, "{"+wordNamespace+"}", namespace, "{"+wordClaim+"}", claim, "{"+wordTag+"}", tag).Replace(f.text)
}

// Claim is what a name is made of.
type Claim struct{ Class, Namespace, Name, UID string }

// Name is the name of the PersistentVolume for a claim, and of its volume.
func (f Format) Name(c Claim) (volume.Name, error) {
	name := f.fill(c.Class, c.Namespace, c.Name, c.UID[:min(8, len(c.UID))])
	if len(name) > maxLength {
		return volume.Name{}, fmt.Errorf("%w: the name that pvNameFormat gives this claim's PersistentVolume has %d characters, and may have %d: choose a shorter name for the claim",
			volume.ErrInvalid, len(name), maxLength)
	}
	return volume.ParseName(name)
}
