package nodeimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Import gives the image to the Docker daemon that the process's environment
// names, unless it has it; imported tells. Several may do so at once.
func (i Image) Import(ctx context.Context, progress func(line string)) (imported bool, err error) {
	found, err := docker(ctx, nil, "image", "ls", "--quiet", "--no-trunc", i.Reference)
	if err != nil {
		return false, fmt.Errorf("import the node image: %w", err)
	}
	if found != "" {
		return false, nil
	}
	if progress != nil {
		progress("Docker takes the node image " + i.Reference)
	}
	reader, writer := io.Pipe()
	go func() { _ = writer.CloseWithError(i.archive(writer)) }()
	defer func() { _ = reader.Close() }()
	if _, err := docker(ctx, reader, "load", "--quiet"); err != nil {
		return false, fmt.Errorf("import the node image: %w", err)
	}
	return true, nil
}

// Remove takes all node images of ours out of the Docker daemon, and gives
// their names. One that a container uses stays, and is an error.
func Remove(ctx context.Context) (removed []string, err error) {
	found, err := docker(ctx, nil, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", Repository)
	if err != nil {
		return nil, fmt.Errorf("remove node images: %w", err)
	}
	for name := range strings.Lines(found) {
		name = strings.TrimSpace(name)
		if _, err := docker(ctx, nil, "image", "rm", name); err != nil {
			return removed, fmt.Errorf("remove node images: %w", err)
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// archive writes the image as docker load reads it. The same image is the same
// bytes, hence has the same ID, wherever it is loaded.
func (i Image) archive(to io.Writer) error {
	type object = map[string]any
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config": object{
			"Entrypoint": []string{"/usr/local/bin/entrypoint", "/sbin/init"},
			"Env": []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"container=docker", // systemd asks for it
			},
			"StopSignal": "SIGRTMIN+3", // on which systemd shuts down
		},
		"rootfs":  object{"type": "layers", "diff_ids": []string{i.Digest}},
		"history": []object{{"created": "1970-01-01T00:00:00Z", "comment": "node image for kind"}},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]object{{"Config": configName, "RepoTags": []string{i.Reference}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	layer, err := os.Open(i.Tar)
	if err != nil {
		return err
	}
	defer func() { _ = layer.Close() }()
	archive := tar.NewWriter(to)
	for _, part := range []struct {
		name    string
		size    int64
		content io.Reader
	}{
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
		{configName, int64(len(config)), bytes.NewReader(config)},
		{"layer.tar", i.Size, layer},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: part.name, Mode: 0o644, Size: part.size}); err != nil {
			return err
		}
		if _, err := io.Copy(archive, part.content); err != nil {
			return fmt.Errorf("write %s: %w", part.name, err)
		}
	}
	return archive.Close()
}

// docker runs the docker command with the process's environment.
func docker(ctx context.Context, input io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = input
	var output, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &said
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()+output.String()))
	}
	return strings.TrimSpace(output.String()), nil
}
