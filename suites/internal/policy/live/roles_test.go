package live

import (
	"testing"

	. "github.com/onsi/gomega"
)

func TestTheRolesThatAreToldAreRead(t *testing.T) {
	g := NewWithT(t)
	for warning, want := range map[string][]string{
		`policy fpc-roles-x.roles: r["home:writer"]c["view","fpc-anyone-x"]`: {"home:writer", "view"},
		`policy fpc-roles-x.roles: r[]c["view","view"]`:                      {"view"},
		`policy fpc-roles-x.roles: rnullc[]`:                                 {},
	} {
		parts := rolesTold.FindStringSubmatch(warning)
		g.Expect(parts).To(HaveLen(3), warning)
		g.Expect(readRoles(parts[1], parts[2])).To(Equal(want), warning)
	}
	g.Expect(rolesTold.FindStringSubmatch("policy fpc-roles-x.roles: something else")).To(BeNil())
}
