package program

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/your-org/flux-platform-conformance/suites/internal/attack"
	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/files"
	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
)

// The folders of attacks, of what switches layers off, and of changes.
const (
	attacksFolder = "fixtures/attacks"
	layersName    = "layers"
	changesFolder = "fixtures/changes"
)

// attackArea and changeArea are the areas of the checks that attacks and changes
// are.
const (
	attackArea = "ATK"
	changeArea = "CHG"
)

// ofAttacks says whether a check is an attack or a change: «attacks» judges it.
func ofAttacks(id string) bool {
	area, _, _ := strings.Cut(id, "-")
	return area == attackArea || area == changeArea
}

// withoutAttacks leaves out the waivers that are for «attacks».
func withoutAttacks(list []check.Waiver) []check.Waiver {
	return slices.DeleteFunc(list, func(w check.Waiver) bool { return ofAttacks(w.Check) })
}

// catalogue is what «attacks» tries.
type catalogue struct {
	// all are attacks and changes, chosen those that are tried.
	all, chosen []overlay.Overlay
	layers      []overlay.Overlay
}

// of are those that are chosen and have a role.
func (c catalogue) of(role overlay.Role) []overlay.Overlay {
	return slices.DeleteFunc(slices.Clone(c.chosen), func(o overlay.Overlay) bool { return o.Role() != role })
}

func (c catalogue) chooses(id string) bool {
	return slices.ContainsFunc(c.chosen, func(o overlay.Overlay) bool { return o.ID == id })
}

func (p *program) attacksCommand(ctx context.Context) *cobra.Command {
	in := &input{}
	var chosen []string
	var depth bool
	c := &cobra.Command{
		Use: "attacks", Short: "Try every attack of the catalogue on the platform, and see each stopped by the layer that it names", Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return p.attacks(ctx, in, chosen, depth) },
	}
	in.flags(c)
	// Hidden: an attack is of one tenant, and all others are watched.
	_ = c.Flags().MarkHidden("tenants")
	c.Flags().StringSliceVar(&chosen, "attack", nil, "attacks and changes to try: IDs, patterns or layers, by commas (default: all)")
	c.Flags().BoolVar(&depth, "depth", true, "switch each layer off that attacks name, and see what catches them next")
	return c
}

// attacks is one run. Whatever goes wrong, there is a report that says so.
func (p *program) attacks(ctx context.Context, in *input, patterns []string, depth bool) error {
	started := time.Now()
	soft, hard, release := p.interrupts(ctx)
	defer release()
	report := check.Report{Started: started, Command: p.args, Provider: in.Provider}
	summary := check.SummaryInput{Now: started}
	found, err := p.catalogue(patterns)
	if err != nil {
		err = invalid{err}
	} else {
		report.Checks, err = attackChecks(found.all)
		summary.Checks = report.Checks
	}
	if err == nil {
		err = p.readInput(soft, in, func(read bringup.Input) error {
			if err := p.examine(found, read); err != nil {
				return invalid{err}
			}
			return nil
		})
	}
	if err != nil {
		if wrong := (invalid{}); errors.As(err, &wrong) {
			summary.Invalid = err
		} else {
			summary.Broken = err
		}
		return p.finish(in, &report, summary, nil)
	}
	r, err := p.start(soft, in, false)
	if err == nil {
		err = p.attackAll(soft, in, r, found, depth, &report, &summary)
	}
	if err != nil && context.Cause(soft) != nil {
		err = context.Cause(soft)
	}
	summary.Broken = errors.Join(err, r.stop(hard))
	return p.finish(in, &report, summary, r)
}

// catalogue reads attacks, layers and changes, and chooses what the patterns name.
func (p *program) catalogue(patterns []string) (catalogue, error) {
	var out catalogue
	var err error
	if out.all, err = overlay.Load(p.assets, attacksFolder, overlay.AttackRole, layersName); err != nil {
		return out, err
	}
	for _, part := range []struct {
		folder string
		role   overlay.Role
		to     *[]overlay.Overlay
	}{{path.Join(attacksFolder, layersName), overlay.LayerRole, &out.layers}, {changesFolder, overlay.ChangeRole, &out.all}} {
		found, err := overlay.Load(p.assets, part.folder, part.role)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, err
		}
		*part.to = append(*part.to, found...)
	}
	if len(patterns) == 0 {
		out.chosen = out.all
		return out, nil
	}
	var names []string
	chosen := map[string]bool{}
	for _, pattern := range patterns {
		matches := 0
		for _, o := range out.all {
			ok, err := path.Match(strings.ToUpper(strings.TrimSpace(pattern)), o.ID)
			if err != nil {
				return out, fmt.Errorf("the pattern %q of attacks is malformed: %w", pattern, err)
			}
			if area, _, _ := strings.Cut(o.ID, "-"); ok || strings.EqualFold(pattern, area) || o.Attack != nil && o.Attack.Layer == pattern {
				chosen[o.ID] = true
				matches++
			}
			names = append(names, o.ID)
		}
		if matches == 0 {
			return out, fmt.Errorf("there is no attack, change or layer of attacks %q%s", pattern, check.DidYouMean(pattern, names))
		}
	}
	for _, o := range out.all {
		if chosen[o.ID] {
			out.chosen = append(out.chosen, o)
		}
	}
	return out, nil
}

// attackChecks are the overlays in the form of checks.
func attackChecks(overlays []overlay.Overlay) ([]check.Check, error) {
	var registry check.Registry
	for _, o := range overlays {
		c := check.Check{
			ID: o.ID, Title: o.Title, Level: check.Core, Scope: check.ScopeEnvironment, Needs: o.Needs,
			Reference: attacksFolder + "/README.md",
		}
		if a := o.Attack; a != nil {
			layer, _ := overlay.LayerOf(a.Layer)
			c.Why, c.Remedy = cmp.Or(a.Why, layer.Gives), layer.Mend
		} else {
			c.Why = "a change that reaches more than the layout lets it takes others down with it"
			c.Remedy = "see which object changed that must not, and who applies it"
			c.Reference = changesFolder + "/README.md"
		}
		if err := registry.Add(c); err != nil {
			return nil, err
		}
	}
	return registry.All(), nil
}

// examine refuses overlays that do not fit the platform: what they name is not
// there, or a control is not the attack with one field changed.
func (p *program) examine(c catalogue, read bringup.Input) error {
	var problems []error
	reader := func(repository string) func(string) ([]byte, error) {
		return func(name string) ([]byte, error) {
			for url, named := range read.Names {
				if named == repository {
					return os.ReadFile(filepath.Join(read.Folders[url], filepath.FromSlash(name)))
				}
			}
			return nil, fmt.Errorf("no folder answers for the %s repository", repository)
		}
	}
	policies := map[string]bool{}
	for _, e := range read.Platform.Environments {
		for _, object := range e.Policies {
			policies[object.GetName()] = true
		}
	}
	for _, o := range slices.Concat(c.chosen, c.layers) {
		problem := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("%s: %w", o.ID, fmt.Errorf(format, args...)))
		}
		for _, name := range o.Environments {
			if read.Platform.Environment(name) == nil {
				problem("it is of the environment %s, which the platform does not have", name)
			}
		}
		for _, need := range o.Needs {
			if !slices.Contains(cluster.Capabilities(), cluster.Capability(need)) {
				problem("it needs %q, which is none of the capabilities %v", need, cluster.Capabilities())
			}
		}
		for _, repository := range o.Touches() {
			if err := changes(o, repository, reader(repository)); err != nil {
				problems = append(problems, err)
			}
		}
		a := o.Attack
		if a == nil {
			continue
		}
		for _, tenant := range []string{a.Tenant, a.Victim} {
			if tenant != "" && !slices.Contains(read.Platform.TenantNames(), tenant) {
				problem("there is no tenant %s", tenant)
			}
		}
		switch a.Layer {
		case "policy":
			if !policies[a.By] {
				var names []string
				for name := range policies {
					names = append(names, name)
				}
				problem("attack.by: the platform has no policy %q%s", a.By, check.DidYouMean(a.By, names))
			}
		case "check", "network":
			if _, known := p.suite.Registry.Get(a.By); !known {
				problem("attack.by: there is no check %q", a.By)
			}
		case "files":
			if _, known := p.suite.Registry.Get(a.By); !known || !files.Is(a.By) {
				problem("attack.by: there is no check %q of files", a.By)
			}
		}
	}
	return errors.Join(problems...)
}

// changes says what is wrong with what an overlay does to a repository: a file that
// is not there, or a control that is not the attack with one field changed.
func changes(o overlay.Overlay, repository string, read func(string) ([]byte, error)) error {
	files, err := o.Changed(repository, read)
	if err != nil {
		return err
	}
	if o.Attack == nil || o.Attack.Control == nil || o.Attack.Control.Repository != repository {
		return nil
	}
	control, err := o.Controlled()
	if err != nil {
		return err
	}
	controlled, err := control.Changed(repository, read)
	if err != nil {
		return fmt.Errorf("%w (the last patch is that of attack.control)", err)
	}
	name := o.Attack.Control.Path
	was, there := files[name]
	if !there {
		return fmt.Errorf("%s: attack.control: %s is no file of the attack", o.ID, name)
	}
	if err := overlay.OneField(was, controlled[name]); err != nil {
		return fmt.Errorf("%s: attack.control: %w", o.ID, err)
	}
	return nil
}

// attackAll tries everything on a session and takes down what the report needs.
func (p *program) attackAll(ctx context.Context, in *input, r *running, c catalogue, depth bool, report *check.Report, summary *check.SummaryInput) error {
	summary.Plan = attackPlan(c, r.view, in.Environments)
	summary.Waivers = slices.DeleteFunc(waivers(r.view.Config.Waivers), func(w check.Waiver) bool { return !ofAttacks(w.Check) })
	fill(ctx, report, r.view)
	const phase = "attacks"
	r.display.Handle(progress.Event{Time: time.Now(), Phase: phase})
	started := time.Now()
	result, err := attack.Run(ctx, attack.Input{
		View: r.view, Attacks: c.of(overlay.AttackRole), Changes: c.of(overlay.ChangeRole), Layers: c.layers, All: c.all,
		Environments: in.Environments, Depth: depth,
		Judge: func(ctx context.Context, name string, checks, environments []string) ([]check.Outcome, error) {
			return p.judge(ctx, in, r, name, Selection{Checks: checks, Environments: environments})
		},
		Files: func(ctx context.Context, checks []string, overlays ...overlay.Overlay) ([]check.Outcome, error) {
			return judgeFilesUnder(ctx, r, checks, overlays)
		},
		Say: func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) },
	})
	r.display.Handle(progress.Event{Time: time.Now(), Phase: phase, Done: true})
	for _, v := range result.Verdicts {
		summary.Outcomes = append(summary.Outcomes, v.Outcome())
	}
	if table := p.attackTable(result, time.Since(started)); table != nil {
		return errors.Join(err, table)
	}
	stopped, encoded := stopAttachment(result)
	if err = errors.Join(err, encoded); encoded == nil {
		report.Attach(stopped)
	}
	if !depth {
		return err
	}
	attachment, encoding := depthAttachment(result)
	report.Attach(attachment)
	return errors.Join(err, encoding)
}

// judgeFilesUnder judges the files of a session as they are under overlays, in a
// copy.
func judgeFilesUnder(ctx context.Context, r *running, checks []string, overlays []overlay.Overlay) (out []check.Outcome, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(r.supervisor.File()), "files-")
	if err != nil {
		return nil, fmt.Errorf("judge the files: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	names, folders := map[string]string{}, map[string]string{}
	for _, repository := range r.view.State.Repositories {
		names[repository.URL], folders[repository.URL] = repository.Name, r.view.Trees[repository.Name]
	}
	under, err := files.Overlaid(ctx, files.OverlaidInput{Platform: r.view.Platform, Names: names, Folders: folders, Dir: dir, Overlays: overlays})
	if err != nil {
		return nil, err
	}
	return files.Judge(ctx, files.Input{Platform: under, Checks: checks})
}

// attackPlan is what a run owes: each attack and change in each environment that it
// names.
func attackPlan(c catalogue, view *bringup.View, environments []string) []check.Planned {
	var out []check.Planned
	for _, o := range c.all {
		for _, e := range view.Platform.Environments {
			if !o.In(e.Name) {
				continue
			}
			planned := check.Planned{Check: o.ID, Environment: e.Name}
			switch {
			case !c.chooses(o.ID):
				planned.Skip = "ATTACK leaves it out"
			case len(environments) > 0 && !slices.Contains(environments, e.Name):
				planned.Skip = "ENVS leaves it out"
			}
			out = append(out, planned)
		}
	}
	return out
}

// attackTable writes what became of each attack.
func (p *program) attackTable(result attack.Result, took time.Duration) error {
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nATTACK\tENVIRONMENT\tSTOPPED BY\tRESULT\tTIME\tWHAT\n")
	for _, v := range result.Verdicts {
		o := v.Outcome()
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.1f s\t%s\n", v.Overlay.ID, v.Environment, cmp.Or(v.By, "–"), o.Result, v.Seconds, v.Overlay.Title)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "\n%d attacks and changes in %.0f s; %d requests, %.0f a second, p99 %d ms\n",
		len(result.Verdicts), took.Seconds(), result.Requests, result.PerSecond, result.P99.Milliseconds())
	return nil
}

// stopAttachment is who stopped each attack, and in which words, for machines.
func stopAttachment(result attack.Result) (check.Attachment, error) {
	type entry struct {
		Attack      string       `json:"attack"`
		Environment string       `json:"environment"`
		Layer       string       `json:"layer"`
		StoppedBy   string       `json:"stoppedBy"`
		Words       string       `json:"words"`
		Result      check.Result `json:"result"`
		Seconds     float64      `json:"seconds"`
	}
	content := struct {
		Attacks           []entry `json:"attacks"`
		Requests          int     `json:"requests"`
		RequestsPerSecond float64 `json:"requestsPerSecond"`
		P99Milliseconds   int64   `json:"p99Milliseconds"`
	}{[]entry{}, result.Requests, result.PerSecond, result.P99.Milliseconds()}
	for _, v := range result.Verdicts {
		layer := ""
		if v.Overlay.Attack != nil {
			layer = v.Overlay.Attack.Layer
		}
		content.Attacks = append(content.Attacks, entry{
			v.Overlay.ID, v.Environment, layer, v.By, check.Redact(v.Words), v.Outcome().Result, v.Seconds,
		})
	}
	data, err := json.Marshal(content)
	if err != nil {
		return check.Attachment{}, fmt.Errorf("encode who stopped attacks: %w", err)
	}
	return check.Attachment{Name: "attacks", Content: data}, nil
}

// mostWords bounds how much of a refusal a line of a table shows, in letters.
const mostWords = 120

// ending is the end of a refusal, where its cause stands, in one line.
func ending(words string) string {
	letters := []rune(strings.Join(strings.Fields(words), " "))
	if len(letters) <= mostWords {
		return string(letters)
	}
	return "…" + string(letters[len(letters)-mostWords:])
}

// depthAttachment is what attacks meet once a layer is off, for machines and as a
// table for people.
func depthAttachment(result attack.Result) (check.Attachment, error) {
	content, err := json.Marshal(struct {
		Depth    []attack.Deep `json:"depth"`
		Needless []string      `json:"needless"`
	}{slices.Concat([]attack.Deep{}, result.Depth), slices.Concat([]string{}, result.Needless)})
	if err != nil {
		return check.Attachment{}, fmt.Errorf("encode what attacks meet: %w", err)
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "SWITCHED OFF\tATTACK\tENVIRONMENT\tWHAT CATCHES IT NEXT\n")
	for _, d := range result.Depth {
		next := cmp.Or(d.Next, "NOTHING")
		if d.Still {
			next += " (in the words of what was switched off)"
		}
		// Of these the name alone does not say whether they would catch it elsewhere: a
		// source may not be there, or not be reached from here.
		if d.Next == "flux" || d.Next == "build" {
			next += ": " + ending(check.Redact(d.Words))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", d.Off, d.Attack, d.Environment, next)
	}
	if err := table.Flush(); err != nil {
		return check.Attachment{}, err
	}
	for _, name := range result.Needless {
		fmt.Fprintf(&text, "no attack needs %s\n", name)
	}
	return check.Attachment{Name: "depth", Content: content, Text: text.String()}, nil
}
