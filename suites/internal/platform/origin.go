package platform

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Origin is the place in a repository that declares something.
type Origin struct {
	// Repository is the URL that Flux knows the repository by; empty for a
	// folder that no source names.
	Repository string
	// Folder is the absolute local folder that answers for Repository.
	Folder string
	// File is the slash-separated path below Folder. It is empty for what
	// «flux bootstrap» would write and the repository does not hold.
	File string
	// Line counts from 1; 0 means that only the file is known.
	Line int
}

// String renders the place as file:line, the file as its path in the repository.
func (o Origin) String() string {
	switch {
	case o.File == "":
		return "(written by flux bootstrap)"
	case o.Line == 0:
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

// manifest is one document of a YAML file, as far as finding it again needs.
type manifest struct {
	line       int // of its first content
	kind, name string
}

// outline lists the documents of a YAML stream without decoding it: large CRD
// bundles are common, and only their line numbers are wanted.
func outline(data []byte) []manifest {
	var (
		out        []manifest
		current    manifest
		inMetadata bool
		depth      int // of the keys of metadata; 0 before the first
	)
	flush := func() {
		if current.line > 0 {
			out = append(out, current)
		}
		current, inMetadata, depth = manifest{}, false, 0
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		text := strings.TrimRight(string(line), "\r\n")
		trimmed := strings.TrimSpace(text)
		switch {
		case strings.HasPrefix(text, "---"):
			flush()
			continue
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
			continue
		}
		if current.line == 0 {
			current.line = number
		}
		indent := len(text) - len(strings.TrimLeft(text, " \t-"))
		switch key, value, _ := strings.Cut(trimmed, ":"); {
		case indent == 0 && key == "kind":
			current.kind = scalar(value)
		case indent == 0:
			inMetadata = key == "metadata"
			if m := inlineName.FindStringSubmatch(value); inMetadata && m != nil {
				current.name = scalar(m[1])
			}
		case inMetadata:
			if depth == 0 {
				depth = indent
			}
			if key == "name" && indent == depth {
				current.name = scalar(value)
			}
		}
	}
	flush()
	return out
}

// inlineName finds the name in metadata written as {name: …}.
var inlineName = regexp.MustCompile(`^\s*\{(?:[^{}]*,)?\s*name:\s*([^,{}]+)`)

func scalar(value string) string {
	value, _, _ = strings.Cut(strings.TrimSpace(value), " #")
	return strings.Trim(strings.TrimSpace(value), `"'`)
}

// lineOf finds the document that an object was built from: the only one of its
// kind, or the one whose name the built name contains (kustomize adds prefixes,
// suffixes and hashes around it).
func lineOf(documents []manifest, kind, name string) int {
	best, line := -1, 0
	for _, d := range documents {
		if d.kind != kind {
			continue
		}
		score := 0
		switch {
		case d.name == name:
			return d.line
		case d.name != "" && strings.Contains(name, d.name):
			score = len(d.name)
		}
		if score > best {
			best, line = score, d.line
		}
	}
	if line == 0 && len(documents) > 0 {
		return documents[0].line
	}
	return line
}

// within joins a path below dir, and tells whether it stays below the root.
func within(dir, name string) (string, bool) {
	joined := path.Clean(path.Join("/", dir, name))
	up := path.Clean(path.Join(dir, name))
	if path.IsAbs(name) || up == ".." || strings.HasPrefix(up, "../") {
		return "", false
	}
	return strings.TrimPrefix(joined, "/"), true
}
