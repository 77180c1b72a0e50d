package state

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
)

// Exhaustive is up to how many tenants a matrix has a cell for every pair of them.
const Exhaustive = 8

const (
	// sampledVictims is how many tenants an identity is judged against, beside its
	// own, those next to it by name, and the platform.
	sampledVictims = 2
	// sampledOfClass is how many of the namespaces in which an identity's rules are
	// the same are judged, where they are nobody's that is judged anyway.
	sampledOfClass = 2
)

// Sampling says which places of a matrix are judged for each identity. With few
// tenants they are all; with many a cell for each pair would grow as their square,
// and nearly all would ask the same.
//
// Always judged are an identity's own places, and one of each class of namespaces
// in which its bindings give it the same rights: a right too many stands in a
// binding, and where it holds is a class of its own. Of other tenants, by whose
// objects only names and policies tell them apart, those next by name are judged and
// some that the seed chooses; every tenant is somebody's victim.
type Sampling struct {
	// Seed chose; the same seed chooses the same.
	Seed uint64 `json:"seed"`
	// Tenants counts all. Pairs of an identity and a place are judged out of OfPairs.
	Tenants int `json:"tenants"`
	Pairs   int `json:"pairs"`
	OfPairs int `json:"ofPairs"`
	// Fewest is in how many identities' samples the tenant is that is in the fewest,
	// but for its own.
	Fewest int `json:"fewest"`

	chosen [][]Place
}

// Sampled says whether places were left out.
func (s Sampling) Sampled() bool { return s.Pairs < s.OfPairs }

// Places are those that are judged for an identity, by its place in the input.
func (s Sampling) Places(identity int) []Place { return s.chosen[identity] }

// String says what was judged, and what that can miss.
func (s Sampling) String() string {
	if !s.Sampled() {
		return fmt.Sprintf("every identity against every place: %d pairs of %d tenants", s.Pairs, s.Tenants)
	}
	return fmt.Sprintf("sampled, seed %d: %d of %d pairs of an identity and a place, of %d tenants: its own, each class of namespaces "+
		"in which its bindings give it the same, the tenants beside it by name and %d that the seed chose; every tenant is the victim of at least %d other accounts; where the server lists the same rights for several, one answer is for all. "+
		"What this can miss: a policy that lets just one pair pass, and rights that come from no role or binding, in places that were not chosen",
		s.Seed, s.Pairs, s.OfPairs, s.Tenants, sampledVictims, s.Fewest)
}

// Sample chooses what is judged, from the identities, the places and the bindings
// of the input.
func Sample(in MatrixInput, seed uint64) Sampling {
	var tenants []string
	for _, p := range in.Places {
		if p.Namespace == "" && p.Victim != OfPlatform {
			tenants = append(tenants, p.Victim)
		}
	}
	sort.Strings(tenants)
	s := Sampling{Seed: seed, Tenants: len(tenants), OfPairs: len(in.Identities) * len(in.Places)}
	if len(tenants) <= Exhaustive {
		for range in.Identities {
			s.chosen = append(s.chosen, in.Places)
		}
		s.Pairs = s.OfPairs
		return s
	}
	r := ring{names: tenants, shuffled: slices.Clone(tenants), at: map[string]int{}}
	random := rand.New(rand.NewPCG(seed, uint64(len(tenants)))) //nolint:gosec // a sample that can be taken again, no secret
	random.Shuffle(len(tenants), func(i, j int) { r.shuffled[i], r.shuffled[j] = r.shuffled[j], r.shuffled[i] })
	for i, name := range r.shuffled {
		r.at[name] = i
	}
	count := map[string]int{}
	for i, identity := range in.Identities {
		victims := r.victims(i, identity)
		s.chosen = append(s.chosen, choose(in, i, victims))
		s.Pairs += len(s.chosen[i])
		for victim := range victims {
			if !slices.Contains(identity.Tenants, victim) {
				count[victim]++
			}
		}
	}
	s.Fewest = len(in.Identities)
	for _, tenant := range tenants {
		s.Fewest = min(s.Fewest, count[tenant])
	}
	return s
}

// ring has the tenants by name and in the seed's order, each before the next.
type ring struct {
	names, shuffled []string
	at              map[string]int // in shuffled
}

// victims are whose objects an identity is judged against.
func (r ring) victims(turn int, identity Identity) map[string]bool {
	n := len(r.names)
	out := map[string]bool{OfPlatform: true}
	for _, own := range identity.Tenants {
		out[own] = true
	}
	if len(identity.Tenants) > 0 {
		own := identity.Tenants[0]
		if i, known := slices.BinarySearch(r.names, own); known {
			out[r.names[(i+1)%n]], out[r.names[(i+n-1)%n]] = true, true
		}
		turn = r.at[own]
	}
	for k := range sampledVictims {
		out[r.shuffled[(turn+1+k)%n]] = true
	}
	return out
}

// choose are the places that one identity is judged in.
func choose(in MatrixInput, turn int, victims map[string]bool) []Place {
	identity := in.Identities[turn]
	// What it may differs from one namespace to another by the bindings there.
	classes := map[string][]string{}
	for _, g := range in.Live.GrantsTo(identity.User, identity.Groups) {
		if g.Namespace != "" {
			classes[g.Namespace] = append(classes[g.Namespace], fmt.Sprint(g.Rules))
		}
	}
	type class struct{ rules, whose string }
	members := map[class][]int{}
	taken := map[int]bool{}
	for i, p := range in.Places {
		rules := classes[p.Namespace]
		sort.Strings(rules)
		whose := "another's"
		if p.Victim == OfPlatform {
			whose = OfPlatform
		}
		if p.Namespace == "" || p.Shared {
			taken[i] = victims[p.Victim]
			continue
		}
		id := class{strings.Join(rules, "\n"), whose}
		switch {
		case slices.Contains(identity.Tenants, p.Victim), whose != OfPlatform && victims[p.Victim]:
			taken[i] = true
		case whose == OfPlatform || id.rules != "":
			members[id] = append(members[id], i)
		}
	}
	for _, list := range members {
		for k := range min(sampledOfClass, len(list)) {
			taken[list[(turn+k)%len(list)]] = true
		}
	}
	var out []Place
	for _, i := range slices.Sorted(maps.Keys(taken)) {
		if taken[i] {
			out = append(out, in.Places[i])
		}
	}
	return out
}
