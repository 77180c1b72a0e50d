package files

import (
	"fmt"
	"unicode/utf8"
)

// Characters that no line of a file shows, and what to call them.
var hidden = map[rune]string{
	0x85: "U+0085, a line break for some readers", 0x2028: "U+2028, a line break for some readers", 0x2029: "U+2029, a line break for some readers",
	0x202a: "U+202A, which turns the direction of text", 0x202b: "U+202B, which turns the direction of text", 0x202c: "U+202C, which turns the direction of text",
	0x202d: "U+202D, which turns the direction of text", 0x202e: "U+202E, which turns the direction of text",
	0x2066: "U+2066, which turns the direction of text", 0x2067: "U+2067, which turns the direction of text",
	0x2068: "U+2068, which turns the direction of text", 0x2069: "U+2069, which turns the direction of text",
	0x200b: "U+200B, a space without width", 0x2060: "U+2060, a space without width", 0xfeff: "U+FEFF, a byte order mark",
}

// characters finds what does not belong into text. Values arrive byte for byte,
// so that a carriage return counts there; in manifests it may end a line.
func characters(r *reading) verdict {
	var v verdict
	values := map[*file]bool{}
	for _, e := range r.platform.Environments {
		for _, t := range e.Tenants {
			for _, value := range t.Values {
				if f := r.at(value.File.Origin); f != nil {
					values[f] = true
				}
			}
		}
	}
	variables, first := 0, ""
	for _, f := range r.files() {
		isValue := values[f] || f.repository.values && f.structured()
		if !isValue && !f.structured() {
			continue
		}
		for _, o := range odd(f.content, isValue) {
			v.add(f.at(o.line), "%s", o.what)
		}
		if values[f] {
			if n, line := braces(f.content); n > 0 {
				variables += n
				if first == "" {
					first = f.at(line).String()
				}
			}
		}
	}
	if variables > 0 {
		v.note = fmt.Sprintf("%d times ${…} in values, which has to arrive as text; the first at %s", variables, first)
	}
	return v
}

type oddity struct {
	line int
	what string
}

// odd lists the characters that do not belong into a text, the first of each kind
// of a line.
func odd(content []byte, value bool) []oddity {
	var out []oddity
	add := func(line int, what string) {
		if n := len(out); n == 0 || out[n-1] != (oddity{line, what}) {
			out = append(out, oddity{line, what})
		}
	}
	line := 1
	for i := 0; i < len(content); {
		c := content[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '\n':
				line++
			case c == '\t':
			case c == '\r':
				if value || i+1 == len(content) || content[i+1] != '\n' {
					add(line, "a carriage return")
				}
			case c < 0x20 || c == 0x7f:
				add(line, fmt.Sprintf("the control character U+%04X", c))
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(content[i:])
		switch what, known := hidden[r]; {
		case r == utf8.RuneError && size == 1:
			add(line, "bytes that are no UTF-8")
		case known:
			add(line, what)
		case r < 0xa0:
			add(line, fmt.Sprintf("the control character U+%04X", r))
		}
		i += size
	}
	return out
}

// braces counts ${…} and finds the line of the first.
func braces(content []byte) (count, line int) {
	for i := 0; i+1 < len(content); i++ {
		if content[i] == '$' && content[i+1] == '{' {
			if count++; count == 1 {
				line = lineOf(content, i)
			}
		}
	}
	return count, line
}
