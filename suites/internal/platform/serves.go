package platform

import (
	"path"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// Serves says that a service answers with the files that its pods mount.
type Serves struct {
	// Image is a pattern for repositories of images, such as acme/*, in which a
	// star stands for anything but a slash. It holds below a prefix as well, such
	// as that of a registry.
	Image string
	// Path is where a file is to be had, such as /config/{file}.
	Path string
	// Names says that each answer tells its pod and its version, in the headers
	// X-Pod and X-Version.
	Names bool
}

// fileField stands for a file's key in Serves.Path.
const fileField = "{file}"

// At is the path of one file.
func (s Serves) At(file string) string { return strings.ReplaceAll(s.Path, fileField, file) }

// ServesOf finds how services of an image answer: as CONFIG says, else as the
// program knows. ok is false where neither says it.
func (c Config) ServesOf(image string) (found Serves, ok bool) {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	for _, s := range append(c.Serves[:len(c.Serves):len(c.Serves)], shipped().Serves...) {
		for rest := image; rest != ""; {
			// The pattern was tried when it was read.
			if matches, _ := path.Match(s.Image, rest); matches {
				return s, true
			}
			_, rest, _ = strings.Cut(rest, "/")
		}
	}
	return Serves{}, false
}

func (r *configReader) serves(node *yaml.Node, key string, c *Config) {
	r.list(node, key, func(item *yaml.Node, key string) {
		var s Serves
		r.mapping(item, key, known{"image": r.text(&s.Image), "path": r.text(&s.Path), "names": r.boolean(&s.Names)})
		if item.Kind != yaml.MappingNode {
			return
		}
		for _, name := range []string{"image", "path"} {
			if field(item, name) == nil {
				r.wrong(item, key, "%s is missing", name)
			}
		}
		if _, err := path.Match(s.Image, ""); err != nil {
			r.wrong(field(item, "image"), key+".image", "%q is no pattern: %v", s.Image, err)
		}
		if s.Path != "" && (!strings.HasPrefix(s.Path, "/") || !strings.Contains(s.Path, fileField)) {
			r.wrong(field(item, "path"), key+".path", "a path like /config/%s is wanted, this is %q", fileField, s.Path)
		}
		c.Serves = append(c.Serves, s)
	})
}

var serviceForm = regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9-]+:[0-9]+$`)

func (r *configReader) service(node *yaml.Node, key, value string) {
	if !serviceForm.MatchString(value) {
		r.wrong(node, key, "a Service as NAMESPACE/NAME:PORT is wanted, this is %q", value)
	}
}
