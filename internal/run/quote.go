package run

import "strings"

// Quote is argv as a line that a shell takes apart into the same words: everything between
// single quotes is itself (POSIX, Shell Command Language, 2.2.2).
func Quote(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
