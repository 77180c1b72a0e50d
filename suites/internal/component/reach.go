package component

import (
	"context"
	"fmt"
	"slices"
)

// Reach finds out in a moment whether the registry of an image answers at all,
// and returns the reference at which others are to ask for that image: the
// mirror's, where the registry has one.
func (s *Store) Reach(ctx context.Context, image string) (reference string, err error) {
	ref, err := parseReference(image)
	if err != nil {
		return "", err
	}
	if s.options.Offline {
		return "", fmt.Errorf("image %s: registries are left out", image)
	}
	if err := s.reach(ctx, ref); err != nil {
		return "", fmt.Errorf("image %s: %w", image, err)
	}
	repository, err := ref.mirrored(s.options.Mirrors)
	if err != nil {
		return "", err
	}
	reference = repository.Name()
	if ref.tag != "" {
		reference += ":" + ref.tag
	}
	if ref.digest != "" {
		reference += "@" + ref.digest
	}
	return reference, nil
}

// IsOwn says whether a component is a program of this project, which no registry
// has.
func (s *Store) IsOwn(name string) bool {
	e, known := s.table.byName[name]
	return known && e.Source != ""
}

// Repositories lists the repository paths, without a registry's host, by which
// images of a component are recognised.
func (s *Store) Repositories(name string) []string {
	if e, known := s.table.byName[name]; known {
		return slices.Clone(e.Repositories)
	}
	return nil
}
