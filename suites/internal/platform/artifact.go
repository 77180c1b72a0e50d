package platform

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Carried is a file in the artifact of a source.
type Carried struct {
	// Path in the artifact.
	Path string
	// Origin is where the file is in its repository.
	Origin Origin
}

// artifacts composes what live sources hold. What it has read is shared.
type artifacts struct {
	guard   sync.Mutex
	sources *sources
}

// Artifact lists the files that source-controller puts into the artifact of a live
// GitRepository, whether or not the platform declares it. What it includes is
// looked up among the others. Where a repository has no local folder that answers
// for it, unknown says so, and there are no files.
func (p *Platform) Artifact(source *unstructured.Unstructured, among []*unstructured.Unstructured) (files []Carried, unknown string, err error) {
	p.artifacts.guard.Lock()
	defer p.artifacts.guard.Unlock()
	made := map[string]*Source{}
	s, err := p.liveSource(source, among, made)
	if err != nil {
		return nil, "", err
	}
	t, unknown, err := p.artifacts.sources.artifact(s, map[*Source]bool{})
	if err != nil {
		// What cannot be composed has no artifact: the source itself is not ready.
		return nil, err.Error(), nil //nolint:nilerr // it is said
	}
	if unknown != "" {
		return nil, unknown, nil
	}
	err = t.walk(".", func(name string, isDir bool) error {
		if f, ok := t.file(name); ok && !isDir && !f.stand {
			files = append(files, Carried{Path: name, Origin: f.origin(0)})
		}
		return nil
	})
	return files, "", err
}

// liveSource is a source as its object is, with the folder that answers for it and
// what it includes.
func (p *Platform) liveSource(object *unstructured.Unstructured, among []*unstructured.Unstructured, made map[string]*Source) (*Source, error) {
	id := object.GetNamespace() + "/" + object.GetName()
	if s := made[id]; s != nil {
		return s, nil
	}
	s, err := newSource(Object{Unstructured: object})
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", object.GetKind(), id, err)
	}
	made[id] = s
	if s.Folder = p.artifacts.sources.folders[repositoryKey(s.URL)]; SameRepository(s.URL, p.URL) {
		s.Folder = p.Root
	}
	for i := range s.Include {
		at := slices.IndexFunc(among, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == object.GetKind() && o.GetNamespace() == object.GetNamespace() && o.GetName() == s.Include[i].Name
		})
		if at < 0 {
			continue
		}
		if s.Include[i].Source, err = p.liveSource(among[at], among, made); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Readers maps each file of the repositories (Origin with folder and path alone) to
// the tenants whose builds read it, in any environment, sorted.
func (p *Platform) Readers() map[Origin][]string {
	out := map[Origin][]string{}
	for _, e := range p.Environments {
		for _, t := range e.Tenants {
			for _, k := range t.Kustomizations {
				files, built := k.Reads()
				if !built {
					continue
				}
				for _, f := range files {
					id := Origin{Folder: f.Folder, File: f.File}
					if !slices.Contains(out[id], t.Name) {
						out[id] = append(out[id], t.Name)
					}
				}
			}
		}
	}
	for _, readers := range out {
		slices.Sort(readers)
	}
	return out
}
