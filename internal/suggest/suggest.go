// Package suggest finds the name that somebody who mistyped one probably meant:
// of a configuration key, a flag or a class parameter.
package suggest

import (
	"fmt"
	"strings"
)

// Nearest says which of names is nearest to got, as the end of an error's
// message: `, did you mean "x"?`, or the list of names if none is near.
func Nearest(got string, names []string) string {
	best, distance := "", len(got)/2+1
	for _, name := range names {
		if d := editDistance(strings.ToLower(got), strings.ToLower(name)); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return "; known are " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance is how many letters have to be added, removed or replaced to get
// from a to b (Levenshtein), of which it keeps one row at a time.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
