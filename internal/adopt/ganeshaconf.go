package adopt

import (
	"errors"
	"fmt"
	"strings"
)

// block is a block of an NFS-Ganesha configuration; see ganesha-config(8).
type block struct {
	name   string
	line   int
	params map[string]string // by name in small letters; of one given twice the last counts
	blocks []block
}

// maxDepth of blocks in blocks: two is what there is.
const maxDepth = 8

// parseConfig reads a configuration. Names of blocks and parameters are given in small
// letters, since their case does not matter. With an error come the blocks before it.
func parseConfig(text string) ([]block, error) {
	p := configParser{rest: text, line: 1}
	top, err := p.blocks(0)
	if err != nil {
		err = fmt.Errorf("line %d: %w", p.line, err)
	}
	return top, err
}

type configParser struct {
	rest string
	line int
}

// blocks reads what is at the top level.
func (p *configParser) blocks(depth int) ([]block, error) {
	var all []block
	for {
		word, err := p.next()
		if err != nil || word == "" {
			return all, err
		}
		if !isWord(word) {
			return all, fmt.Errorf("%q where a block should begin", word)
		}
		b := block{name: strings.ToLower(word), line: p.line}
		if err := p.expect("{"); err != nil {
			return all, err
		}
		if err := p.body(&b, depth+1); err != nil {
			return all, err
		}
		all = append(all, b)
	}
}

// body reads what is between the braces of b.
func (p *configParser) body(b *block, depth int) error {
	if depth > maxDepth {
		return errors.New("blocks lie too deep in each other")
	}
	b.params = map[string]string{}
	for {
		word, err := p.next()
		switch {
		case err != nil:
			return err
		case word == "":
			return fmt.Errorf("block %s of line %d has no end", b.name, b.line)
		case word == "}":
			return nil
		case word == ";":
			continue
		case !isWord(word):
			return fmt.Errorf("%q where a parameter should be", word)
		}
		switch sign, err := p.next(); {
		case err != nil:
			return err
		case sign == "=":
			value, err := p.value()
			if err != nil {
				return err
			}
			b.params[strings.ToLower(word)] = value
		case sign == "{":
			inner := block{name: strings.ToLower(word), line: p.line}
			if err := p.body(&inner, depth+1); err != nil {
				return err
			}
			b.blocks = append(b.blocks, inner)
		default:
			return fmt.Errorf("%q after %s where = or { should be", sign, word)
		}
	}
}

// value reads up to the semicolon. Several words are given with a space between them.
func (p *configParser) value() (string, error) {
	var words []string
	for {
		word, err := p.next()
		switch {
		case err != nil:
			return "", err
		case word == ";":
			return strings.Join(words, " "), nil
		case word == "" || word == "{" || word == "}" || word == "=":
			return "", errors.New("a value has no ; at its end")
		}
		words = append(words, unquote(word))
	}
}

func (p *configParser) expect(sign string) error {
	word, err := p.next()
	if err == nil && word != sign {
		err = fmt.Errorf("%q where %s should be", word, sign)
	}
	return err
}

const signs = "{}=;"

// next gives the next sign, word or quoted text, with its quotes; "" at the end.
func (p *configParser) next() (string, error) {
	p.skip()
	if p.rest == "" {
		return "", nil
	}
	end := 1
	switch c := p.rest[0]; {
	case strings.IndexByte(signs, c) >= 0:
	case c == '"' || c == '\'':
		n := strings.IndexByte(p.rest[1:], c)
		if n < 0 || strings.Contains(p.rest[1:1+n], "\n") {
			return "", errors.New("a quote has no end on its line")
		}
		end = n + 2
	default:
		end = strings.IndexAny(p.rest, signs+" \t\r\n#\"'")
		if end < 0 {
			end = len(p.rest)
		}
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word, nil
}

// skip passes over blanks and comments.
func (p *configParser) skip() {
	for p.rest != "" {
		switch p.rest[0] {
		case '\n':
			p.line++
			p.rest = p.rest[1:]
		case ' ', '\t', '\r':
			p.rest = p.rest[1:]
		case '#':
			n := strings.IndexByte(p.rest, '\n')
			if n < 0 {
				n = len(p.rest)
			}
			p.rest = p.rest[n:]
		default:
			return
		}
	}
}

func isWord(s string) bool { return s != "" && !strings.ContainsAny(s[:1], signs+`"'`) }

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') {
		return s[1 : len(s)-1]
	}
	return s
}
