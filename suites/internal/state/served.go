package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Answer is what became of one request to a service.
type Answer struct {
	// At is when it was sent, in seconds since a moment that all answers share.
	At     float64
	Status int
	// Pod and Version are those that the answer names; empty where it does not.
	Pod, Version string
	// SHA256 of the body, in hexadecimal, and its length.
	SHA256 string
	Bytes  int64
	// Error is why there was no answer, or not all of it; empty when there was.
	Error string
}

const found = 200

// fault says what is wrong with an answer whatever was asked for.
func (a Answer) fault() string {
	switch {
	case a.Error != "":
		return "no answer: " + a.Error
	case a.Status != found:
		return fmt.Sprintf("answered with status %d%s", a.Status, by(a))
	}
	return ""
}

func by(a Answer) string {
	if a.Pod == "" {
		return ""
	}
	return " by Pod " + a.Pod
}

// ServedInput is what ServedProblems concludes from.
type ServedInput struct {
	// Pods are those that must have answered, by name, for each file.
	Pods []string
	// Names says that the service's answers name pod and version, Sticky that who
	// asks gets to the same pod each time.
	Names, Sticky bool
	// Version that each answer must name; empty: none is declared.
	Version string
	// Files maps each file to the SHA-256 of what it must hold.
	Files map[string]string
	// Answers are those that came for each file.
	Answers map[string][]Answer
	// Known says whose content a SHA-256 is, to tell what was served instead.
	Known map[string]string
}

// ServedProblems says where a service has answered otherwise than it must: not at
// all, with other bytes, by somebody else's pod or another version, and which pods
// never answered. What came several times is said once.
func ServedProblems(in ServedInput) []string {
	if len(in.Pods) == 0 {
		return []string{"no pod is ready that could answer"}
	}
	var out []string
	for _, file := range slices.Sorted(maps.Keys(in.Files)) {
		answers := in.Answers[file]
		var problems []string
		seen := map[string]bool{}
		for _, a := range answers {
			seen[a.Pod] = true
			problems = append(problems, in.wrong(a, in.Files[file])...)
		}
		for _, problem := range counted(problems, len(answers)) {
			out = append(out, file+": "+problem)
		}
		for _, pod := range in.Pods {
			if in.Names && !in.Sticky && !seen[pod] {
				out = append(out, fmt.Sprintf("%s: Pod %s, which is ready, has answered none of %d requests", file, pod, len(answers)))
			}
		}
		if len(answers) == 0 && (in.Sticky || !in.Names) {
			out = append(out, file+": nobody was asked")
		}
	}
	if len(in.Files) == 0 {
		out = append(out, "there is no file to ask for")
	}
	return out
}

// Seen says whether each of the pods has answered for each file.
func (in ServedInput) Seen() bool {
	for file := range in.Files {
		for _, pod := range in.Pods {
			if in.Names && !in.Sticky && !slices.ContainsFunc(in.Answers[file], func(a Answer) bool { return a.Pod == pod }) {
				return false
			}
		}
		if len(in.Answers[file]) == 0 {
			return false
		}
	}
	return true
}

func (in ServedInput) wrong(a Answer, want string) []string {
	if fault := a.fault(); fault != "" {
		return []string{fault}
	}
	var out []string
	if in.Names && !slices.Contains(in.Pods, a.Pod) {
		out = append(out, fmt.Sprintf("answered by Pod %s, which is none of the ready ones", cmp.Or(a.Pod, "(none is named)")))
	}
	if a.SHA256 != want {
		out = append(out, fmt.Sprintf("served are %s%s", in.content(a), by(a)))
	}
	if in.Names && in.Version != "" && a.Version != in.Version {
		out = append(out, fmt.Sprintf("the version is %q%s, declared is %q", a.Version, by(a), in.Version))
	}
	return out
}

// content names what was served instead of what was asked for.
func (in ServedInput) content(a Answer) string {
	text := fmt.Sprintf("%d other bytes (SHA-256 %.12s…)", a.Bytes, a.SHA256)
	if known := in.Known[a.SHA256]; known != "" {
		text += ", which are " + known
	}
	return text
}

// counted says each line once, and how many of all it stands for where that is not
// every one.
func counted(lines []string, all int) []string {
	times := map[string]int{}
	for _, line := range lines {
		times[line]++
	}
	var out []string
	for _, line := range slices.Sorted(maps.Keys(times)) {
		if n := times[line]; n < all {
			line = fmt.Sprintf("%s (%d of %d requests)", line, n, all)
		}
		out = append(out, line)
	}
	return out
}

// Asked is one request to a host, and its answer.
type Asked struct {
	Host, File string
	// SHA256 of what the file must hold.
	SHA256 string
	Answer Answer
}

// HostsInput is what HostProblems concludes from.
type HostsInput struct {
	Tenant string
	// Own are the requests to the tenant's hosts, Others those to hosts of others,
	// Nobodys those to a host that no Ingress has.
	Own, Others, Nobodys []Asked
	// Pods maps pods to their tenants; a name is looked up where an answer gives it.
	Pods map[string]string
	// Names says that the answers of the tenant's service name their pod.
	Names bool
}

// HostProblems says where a tenant's hosts do not answer with the tenant's files,
// by its pods, and which other hosts do.
func HostProblems(in HostsInput) []string {
	if len(in.Own) == 0 {
		return []string{"no host of the tenant was asked"}
	}
	var out []string
	own := map[string]string{}
	for _, asked := range in.Own {
		own[asked.SHA256] = asked.File
		where := asked.Host + ", " + asked.File + ": "
		a := asked.Answer
		if fault := a.fault(); fault != "" {
			out = append(out, where+fault)
			continue
		}
		if tenant := in.Pods[a.Pod]; in.Names && tenant != in.Tenant {
			out = append(out, fmt.Sprintf("%sanswered by Pod %s, of %s", where, cmp.Or(a.Pod, "(none is named)"), cmp.Or(tenant, "no tenant")))
		}
		if a.SHA256 != asked.SHA256 {
			out = append(out, fmt.Sprintf("%sserved are %d other bytes%s", where, a.Bytes, by(a)))
		}
	}
	for _, asked := range slices.Concat(in.Others, in.Nobodys) {
		a := asked.Answer
		whose := "is another tenant's"
		if slices.Contains(in.Nobodys, asked) {
			whose = "is nobody's"
		}
		switch {
		case a.Pod != "" && in.Pods[a.Pod] == in.Tenant:
			out = append(out, fmt.Sprintf("%s %s, and Pod %s of %s answers there", asked.Host, whose, a.Pod, in.Tenant))
		case a.Error == "" && a.Status == found && own[a.SHA256] != "" && a.SHA256 != asked.SHA256:
			out = append(out, fmt.Sprintf("%s %s, and the file %s of %s is served there", asked.Host, whose, own[a.SHA256], in.Tenant))
		}
	}
	return out
}

// RollInput is what NewRoll concludes from: a steady stream of requests while a
// file was changed, and changed back.
type RollInput struct {
	// Old and New are the SHA-256 of the file before the change and after it.
	Old, New string
	// Answers in the order of the requests.
	Answers []Answer
	// Changed is when the change was committed, Back when it was taken back.
	Changed, Back float64
}

// Roll is what became of a change on its way to those who ask.
type Roll struct {
	Problems []string
	Requests int
	// There and Back are the two ways.
	There, Back Way
}

// Way is one change on its way, in seconds since its commit.
type Way struct {
	// First is when the first request was sent that got the new bytes, Last when
	// the last one was that got the old ones; negative where there was none.
	First, Last float64
}

// mostLost bounds how many lost requests are shown one by one.
const mostLost = 3

// NewRoll follows a change, and the change back, through a stream of requests:
// none may be lost, only the two contents may be seen, the new one must come and
// the old one go, both times, and from other pods than before.
func NewRoll(in RollInput) Roll {
	out := Roll{Requests: len(in.Answers), There: Way{-1, -1}, Back: Way{-1, -1}}
	before, lost := 0, 0
	last := map[bool]Answer{}
	pods := map[bool]map[string]bool{false: {}, true: {}}
	for _, a := range in.Answers {
		back := a.At >= in.Back
		if fault := a.fault(); fault != "" {
			if lost++; lost <= mostLost {
				out.Problems = append(out.Problems, fmt.Sprintf("a request was lost %s: %s", in.when(a), fault))
			}
			continue
		}
		old, fresh, way, since := in.Old, in.New, &out.There, in.Changed
		if back {
			old, fresh, way, since = in.New, in.Old, &out.Back, in.Back
		}
		switch {
		case a.SHA256 != in.Old && a.SHA256 != in.New:
			out.Problems = append(out.Problems, fmt.Sprintf("%d bytes were served%s %s that are neither the old nor the new ones", a.Bytes, by(a), in.when(a)))
		case a.At < in.Changed:
			before++
			if a.SHA256 != in.Old {
				out.Problems = append(out.Problems, "the new bytes were served before the change was made")
			}
		case a.SHA256 == fresh && way.First < 0:
			way.First = a.At - since
		case a.SHA256 == old:
			way.Last = a.At - since
		}
		if known := a.SHA256 == in.Old || a.SHA256 == in.New; known && !back && a.Pod != "" {
			pods[a.SHA256 == in.New][a.Pod] = true
		}
		if a.At >= in.Changed {
			last[back] = a
		}
	}
	if lost > mostLost {
		out.Problems = append(out.Problems, fmt.Sprintf("%d of %d requests were lost", lost, len(in.Answers)))
	}
	if before == 0 {
		out.Problems = append(out.Problems, "nobody answered before the change: what came of it cannot be told")
	}
	for _, back := range []bool{false, true} {
		what, want := "change", in.New
		if back {
			what, want = "change back", in.Old
		}
		switch a, any := last[back]; {
		case !any:
			out.Problems = append(out.Problems, "nobody answered after the "+what)
		case a.SHA256 != want:
			out.Problems = append(out.Problems, fmt.Sprintf("the last answer after the %s%s still has the bytes before it", what, by(a)))
		}
	}
	for pod := range pods[true] {
		if pods[false][pod] {
			out.Problems = append(out.Problems, fmt.Sprintf("Pod %s served the old bytes and then the new ones: it was not replaced", pod))
		}
	}
	out.Problems = once(out.Problems)
	return out
}

func (in RollInput) when(a Answer) string {
	switch {
	case a.At < in.Changed:
		return fmt.Sprintf("%.1f s before the change", in.Changed-a.At)
	case a.At < in.Back:
		return fmt.Sprintf("%.1f s after the change", a.At-in.Changed)
	}
	return fmt.Sprintf("%.1f s after the change back", a.At-in.Back)
}

// once leaves out what was said already.
func once(lines []string) []string {
	seen := map[string]bool{}
	return keep(lines, func(line string) bool {
		known := seen[line]
		seen[line] = true
		return !known
	})
}

// PodsDisturbed says which of the pods that ran before are others now, or were
// restarted, and which have come.
func PodsDisturbed(before, after []corev1.Pod) []string {
	now := map[string]corev1.Pod{}
	for _, pod := range after {
		now[pod.Namespace+"/"+pod.Name] = pod
	}
	var out []string
	for _, was := range before {
		if was.DeletionTimestamp != nil || finished(was) {
			delete(now, was.Namespace+"/"+was.Name)
			continue
		}
		is, there := now[was.Namespace+"/"+was.Name]
		delete(now, was.Namespace+"/"+was.Name)
		switch {
		case !there || is.DeletionTimestamp != nil:
			out = append(out, "Pod "+was.Name+" is gone")
			continue
		case is.UID != was.UID:
			out = append(out, "Pod "+was.Name+" was replaced by another of that name")
			continue
		}
		for _, status := range was.Status.ContainerStatuses {
			i := slices.IndexFunc(is.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == status.Name })
			if i >= 0 && is.Status.ContainerStatuses[i].RestartCount > status.RestartCount {
				out = append(out, fmt.Sprintf("container %s of Pod %s was restarted", status.Name, was.Name))
			}
		}
	}
	for _, pod := range now {
		if pod.DeletionTimestamp == nil {
			out = append(out, "Pod "+pod.Name+" is new")
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
