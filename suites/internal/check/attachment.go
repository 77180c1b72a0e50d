package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// attachmentFolder holds the attachments of a run folder, a file each.
const attachmentFolder = "attachments"

// attachmentName also makes a name safe as that of a file.
var attachmentName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// reservedNames are the files that a run itself writes beside the attachments of
// the whole platform.
var reservedNames = []string{"report", "policies", "compare"}

// Attachment is what a check found out beside its outcome, for example a map of
// owners. It decides nothing.
type Attachment struct {
	// Environment is empty for what concerns the whole platform.
	Environment string `json:"environment"`
	// Name tells apart the attachments of an environment: small letters, digits and
	// dashes. It names the file.
	Name string `json:"name"`
	// Content is what machines read. It is required.
	Content json.RawMessage `json:"content"`
	// Text is what the end of a run shows to people; empty: nothing.
	Text string `json:"text"`
}

// AttachmentFile says where an attachment lies.
type AttachmentFile struct {
	// Environment is empty for what concerns the whole platform.
	Environment string `json:"environment"`
	Name        string `json:"name"`
	// Path is relative to the report's folder, with slashes.
	Path string `json:"path"`
}

// Validate refuses an attachment whose names cannot be those of files, and one
// whose content is not JSON.
func (a Attachment) Validate() error {
	var errs []error
	if !attachmentName.MatchString(a.Name) || a.Environment == "" && slices.Contains(reservedNames, a.Name) {
		errs = append(errs, fmt.Errorf("name %q is not made of small letters, digits and dashes, or one of %s",
			a.Name, strings.Join(reservedNames, ", ")))
	}
	if a.Environment != "" && (strings.HasPrefix(a.Environment, ".") || a.Environment != filepath.Base(a.Environment)) {
		errs = append(errs, fmt.Errorf("environment %q cannot be a folder's name", a.Environment))
	}
	if !json.Valid(a.Content) {
		errs = append(errs, errors.New("content is not JSON"))
	}
	if len(errs) > 0 {
		return fmt.Errorf("attachment %s: %w", a.place(), errors.Join(errs...))
	}
	return nil
}

func (a Attachment) place() string {
	return strings.TrimSpace(a.Name + " " + cmp.Or(a.Environment, platformTitle))
}

// file is where an attachment lies below the report's folder.
func (a Attachment) file() AttachmentFile {
	path := a.Name + ".json"
	if a.Environment != "" {
		path = a.Environment + "/" + path
	}
	return AttachmentFile{Environment: a.Environment, Name: a.Name, Path: path}
}

// Attach writes an attachment down. A second one of the same environment and name
// is an error, also when another process of the run made the first.
func (r *Recorder) Attach(a Attachment) error {
	if err := a.Validate(); err != nil {
		return err
	}
	content, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding the attachment %s: %w", a.place(), err)
	}
	folder := filepath.Join(filepath.Dir(r.file.Name()), attachmentFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("creating the folder of attachments: %w", err)
	}
	file, err := os.CreateTemp(folder, ".attachment-*")
	if err != nil {
		return fmt.Errorf("writing the attachment %s: %w", a.place(), err)
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		// A link fails where there is one already, and is never half a file.
		err = os.Link(file.Name(), filepath.Join(folder, strings.ReplaceAll(a.file().Path, "/", "@")))
	}
	removed := os.Remove(file.Name())
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("attachment %s is made twice; each is made once per environment and run", a.place())
	}
	if err = errors.Join(err, removed); err != nil {
		return fmt.Errorf("writing the attachment %s: %w", a.place(), err)
	}
	return nil
}

// ReadAttachments reads what every recorder of the run folder has attached, sorted
// by environment and name. One that cannot be read is an error; they are joined,
// and come together with those that could be read.
func ReadAttachments(runFolder string) ([]Attachment, error) {
	files, err := filepath.Glob(filepath.Join(runFolder, attachmentFolder, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing the attachments of %s: %w", runFolder, err)
	}
	var errs []error
	var out []Attachment
	for _, name := range files {
		var a Attachment
		content, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(content, &a)
		}
		if err == nil {
			err = a.Validate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading attachments: %s: %w", name, err))
			continue
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Attachment) int {
		return cmp.Or(strings.Compare(a.Environment, b.Environment), strings.Compare(a.Name, b.Name))
	})
	return out, errors.Join(errs...)
}

// Attach adds attachments to a report: Write makes a file of each, and WriteText
// shows their texts.
func (r *Report) Attach(attachments ...Attachment) {
	for _, a := range attachments {
		r.attached = append(r.attached, a)
		r.Attachments = append(r.Attachments, a.file())
	}
}

// writeAttachments writes each attachment to its place, without secrets.
func (r Report) writeAttachments(dir string) error {
	for _, a := range r.attached {
		if err := a.Validate(); err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.FromSlash(a.file().Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return fmt.Errorf("creating the folder of the attachment %s: %w", a.place(), err)
		}
		var content bytes.Buffer
		if err := json.Indent(&content, tidyJSON(a.Content), "", "  "); err != nil {
			return fmt.Errorf("encoding the attachment %s: %w", a.place(), err)
		}
		content.WriteByte('\n')
		if err := WriteFile(name, content.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// jsonString is a string of a JSON document, keys included.
var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// tidyJSON takes secrets and colours out of every string of a JSON document and
// leaves the order of its keys.
func tidyJSON(content []byte) []byte {
	return jsonString.ReplaceAllFunc(content, func(quoted []byte) []byte {
		var value string
		if json.Unmarshal(quoted, &value) != nil {
			return []byte(strconv.Quote(redacted))
		}
		clean := Redact(ansi.ReplaceAllString(value, ""))
		if clean == value {
			return quoted
		}
		out, err := json.Marshal(clean)
		if err != nil {
			return []byte(strconv.Quote(redacted))
		}
		return out
	})
}

// AttachmentPaths are the paths that a report.json of an earlier run lists, none
// where there is no such file or it is no report. A path that is not of the form
// that reports have is left out.
func AttachmentPaths(dir string) []string {
	content, err := os.ReadFile(filepath.Join(dir, ReportFile))
	var earlier struct {
		Attachments []AttachmentFile `json:"attachments"`
	}
	if err != nil || json.Unmarshal(content, &earlier) != nil {
		return nil
	}
	var out []string
	for _, listed := range earlier.Attachments {
		a := Attachment{Environment: listed.Environment, Name: listed.Name, Content: json.RawMessage("null")}
		if a.Validate() == nil {
			out = append(out, a.file().Path)
		}
	}
	return out
}
