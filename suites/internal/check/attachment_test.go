package check_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

func attachment(environment, name, content, text string) check.Attachment {
	return check.Attachment{Environment: environment, Name: name, Content: json.RawMessage(content), Text: text}
}

func TestAttachmentValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		attachment check.Attachment
		want       string
	}{
		{"no name", attachment("dev", "", "{}", ""), `attachment dev: name "" is not made of`},
		{"a path", attachment("dev", "../x", "{}", ""), `name "../x" is not made of`},
		{"capitals", attachment("dev", "Map", "{}", ""), `name "Map" is not made of`},
		{"the report's own", attachment("", "report", "{}", ""), `attachment report (platform): name "report" is not made of`},
		{"an environment that is a path", attachment("a/b", "map", "{}", ""), `environment "a/b" cannot be a folder's name`},
		{"an environment above", attachment("..", "map", "{}", ""), `environment ".." cannot be a folder's name`},
		{"no content", attachment("dev", "map", "", ""), "content is not JSON"},
		{"half a content", attachment("dev", "map", `{"a":`, ""), "content is not JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			NewWithT(t).Expect(test.attachment.Validate()).To(MatchError(ContainSubstring(test.want)))
		})
	}
	g := NewWithT(t)
	g.Expect(attachment("dev", "report", "{}", "").Validate()).To(Succeed())
	g.Expect(attachment("", "map-2", "[]", "text").Validate()).To(Succeed())
}

// Two recorders stand for two processes of a run.
func TestAttach(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := filepath.Join(t.TempDir(), "run")
	g.Expect(check.ReadAttachments(folder)).To(BeEmpty())
	var recorders []*check.Recorder
	for range 2 {
		recorder, err := check.OpenRecorder(folder)
		g.Expect(err).NotTo(HaveOccurred())
		t.Cleanup(func() { _ = recorder.Close() })
		recorders = append(recorders, recorder)
	}
	first := attachment("prd", "owners", `{"a":1}`, "one\n")
	g.Expect(recorders[0].Attach(first)).To(Succeed())
	second := attachment("dev", "owners", `[]`, "")
	g.Expect(recorders[1].Attach(second)).To(Succeed())
	third := attachment("dev", "flows", `"x"`, "")
	g.Expect(recorders[1].Attach(third)).To(Succeed())
	g.Expect(recorders[0].Attach(check.Attachment{})).To(MatchError(ContainSubstring("content is not JSON")))
	for _, recorder := range recorders {
		g.Expect(recorder.Attach(first)).To(MatchError("attachment owners prd is made twice; each is made once per environment and run"))
	}
	g.Expect(check.ReadAttachments(folder)).To(Equal([]check.Attachment{third, second, first}))

	g.Expect(os.WriteFile(filepath.Join(folder, "attachments", "x.json"), []byte(`{"name":"x","con`), 0o600)).To(Succeed())
	read, err := check.ReadAttachments(folder)
	g.Expect(err).To(MatchError(ContainSubstring("reading attachments: ")))
	g.Expect(read).To(HaveLen(3))
	outcomes, err := check.ReadOutcomes(folder)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(outcomes).To(BeEmpty(), "an attachment is no outcome")
}

func TestWriteAttachments(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := filepath.Join(t.TempDir(), "artifacts")
	var report check.Report
	report.Result = check.RunPassed
	report.Attach(
		attachment("dev", "owners", `{"z":"password: hunter2","a":["\u001b[31mred\u001b[0m <x>",1.50]}`, "beetle \x1b[32m■\x1b[0m 4\x07\n  password: hunter2  \n"),
		attachment("", "depth", `[]`, ""),
	)
	g.Expect(report.Write(folder)).To(Succeed())
	content, err := os.ReadFile(filepath.Join(folder, "dev", "owners.json"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal("{\n  \"z\": \"password: REDACTED\",\n  \"a\": [\n    \"red \\u003cx\\u003e\",\n    1.50\n  ]\n}\n"))
	g.Expect(filepath.Join(folder, "depth.json")).To(BeAnExistingFile())

	written, err := os.ReadFile(filepath.Join(folder, check.ReportFile))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(validate(t, written)).To(Succeed())
	read, err := check.ReadReport(filepath.Join(folder, check.ReportFile))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(read.Attachments).To(Equal([]check.AttachmentFile{
		{Environment: "dev", Name: "owners", Path: "dev/owners.json"}, {Name: "depth", Path: "depth.json"},
	}))
	g.Expect(check.AttachmentPaths(folder)).To(Equal([]string{"dev/owners.json", "depth.json"}))

	var text bytes.Buffer
	g.Expect(report.WriteText(&text, check.TextOptions{})).To(Succeed())
	g.Expect(text.String()).To(HavePrefix("owners, dev\nbeetle ■ 4\uFFFD\n  password: REDACTED\n\n"))
	g.Expect(text.String()).NotTo(ContainSubstring("depth"))
	text.Reset()
	g.Expect(report.WriteText(&text, check.TextOptions{Colour: true})).To(Succeed())
	g.Expect(text.String()).To(ContainSubstring("beetle \x1b[32m■\x1b[0m 4\uFFFD\n"))

	report.Attach(attachment("dev", "../x", "{}", ""))
	g.Expect(report.Write(folder)).To(MatchError(ContainSubstring(`name "../x"`)))
}

func TestAttachmentPathsOfAStranger(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	g.Expect(check.AttachmentPaths(folder)).To(BeEmpty())
	for content, want := range map[string][]string{
		"no JSON":                      nil,
		`{}`:                           nil,
		`{"attachments":[{"name":1}]}`: nil,
		`{"attachments":[{"environment":"..","name":"x","path":"../x.json"},{"environment":"dev","name":"x","path":"/etc/passwd"}]}`: {"dev/x.json"},
	} {
		g.Expect(os.WriteFile(filepath.Join(folder, check.ReportFile), []byte(content), 0o600)).To(Succeed())
		g.Expect(check.AttachmentPaths(folder)).To(Equal(want), content)
	}
}
