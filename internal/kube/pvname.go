package kube

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"

	"github.com/berth-storage/berth/internal/suggest"
	"github.com/berth-storage/berth/internal/volume"
)

// maxPVName leaves room for what Berth and ZFS put before or after a volume's name.
const maxPVName = 200

// The words of a NameFormat, each under pvmanager's name and a shorter one.
const (
	formatClass     = "sc"
	formatNamespace = prefixPVManager + "pvc-namespace"
	formatClaim     = prefixPVManager + "pvc-name"
	formatTag       = "PVMANAGER-PV-TAG"
)

var (
	formatWord  = regexp.MustCompile(`\{([^{}]*)\}`)
	formatNames = map[string]string{"class": formatClass, "namespace": formatNamespace, "name": formatClaim, "tag": formatTag}
	// A name of an object; see https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// NameFormat says how the PersistentVolumes of a pool, and so its volumes, are named.
type NameFormat struct{ text string }

// ParseNameFormat reads a text with words in braces, as pvmanager's pvNameFormat has
// them: {sc} or {class}, {pvmanager.wimsey.us/pvc-namespace} or {namespace},
// {pvmanager.wimsey.us/pvc-name} or {name}, and {PVMANAGER-PV-TAG} or {tag}, eight
// characters of the claim's uid, which it must have: two claims of one name, of which one is
// deleted, have two volumes.
func ParseNameFormat(text string) (NameFormat, error) {
	f := NameFormat{formatWord.ReplaceAllStringFunc(text, func(word string) string {
		if name, short := formatNames[strings.Trim(word, "{}")]; short {
			return "{" + name + "}"
		}
		return word
	})}
	known := []string{formatClass, formatNamespace, formatClaim, formatTag, "class", "namespace", "name", "tag"}
	for _, m := range formatWord.FindAllStringSubmatch(f.text, -1) {
		switch m[1] {
		case formatClass, formatNamespace, formatClaim, formatTag:
		default:
			return NameFormat{}, fmt.Errorf("%w: name format %.200q: {%s} is unknown%s", volume.ErrInvalid, text, m[1], suggest.Nearest(m[1], known))
		}
	}
	if !strings.Contains(f.text, "{"+formatTag+"}") {
		return NameFormat{}, fmt.Errorf("%w: name format %.200q: lacks {%s}, by which the volumes of claims that follow each other under one name differ",
			volume.ErrInvalid, text, formatTag)
	}
	if example := f.fill("c", "n", "p", "0"); !objectName.MatchString(example) || len(example) > maxPVName/2 {
		return NameFormat{}, fmt.Errorf("%w: name format %.200q gives names like %.200q: they have small letters, digits, '-' and '.', and begin and end with one of the first two",
			volume.ErrInvalid, text, example)
	}
	return f, nil
}

func (f NameFormat) fill(class, namespace, claim, tag string) string {
	return strings.NewReplacer("{"+formatClass+"}", class, "{"+formatNamespace+"}", namespace, "{"+formatClaim+"}", claim, "{"+formatTag+"}", tag).Replace(f.text)
}

// nameOf is the name of the PersistentVolume for a claim of a class.
func (f NameFormat) nameOf(class string, claim *v1.PersistentVolumeClaim) (string, error) {
	tag := string(claim.UID)
	name := f.fill(class, claim.Namespace, claim.Name, tag[:min(8, len(tag))])
	if len(name) > maxPVName {
		return "", fmt.Errorf("%w: the name that pvNameFormat gives this claim's PersistentVolume has %d characters, and may have %d: choose a shorter name for the claim",
			volume.ErrInvalid, len(name), maxPVName)
	}
	return name, nil
}

// namer names PersistentVolumes before they are made; the library asks it.
type namer struct {
	classes storagelisters.StorageClassLister
	pools   []*Pool
}

// name is always the same for a claim, as long as its class and the pools are. A claim
// that cannot have the name that its pool wants has one that Provision refuses.
func (n namer) name(claim *v1.PersistentVolumeClaim) string {
	usual := "pvc-" + string(claim.UID)
	class, err := n.classes.Get(classOf(claim))
	if err != nil {
		return usual
	}
	pools, err := poolsFor(class, n.pools)
	if err != nil || pools[0].PVNames == nil {
		return usual
	}
	name, err := pools[0].PVNames.nameOf(class.Name, claim)
	if err != nil {
		return usual
	}
	return name
}
