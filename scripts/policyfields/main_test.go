package main

import (
	"encoding/json"
	"testing"

	. "github.com/onsi/gomega"
)

const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {kind: Thing, plural: things}
  scope: Cluster
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          apiVersion: {type: string}
          metadata: {type: object}
          spec:
            type: object
            properties:
              any: {type: object, x-kubernetes-preserve-unknown-fields: true}
              labels: {type: object, additionalProperties: {type: string}}
              port: {x-kubernetes-int-or-string: true}
              rules:
                type: array
                items: {type: object, properties: {name: {type: string}}}
`

func TestAdd(t *testing.T) {
	g := NewWithT(t)
	kinds := map[string]any{}
	g.Expect(add(kinds, []byte(definition))).To(Succeed())
	text, err := render(kinds)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(text)).To(Equal("{\n" + `"example.com/v1/Thing": {"apiVersion":null,"metadata":null,"spec":{"any":null,"labels":{"*":null},"port":null,"rules":[{"name":null}]}}` + "\n}\n"))
	g.Expect(json.Valid(text)).To(BeTrue())
	g.Expect(add(kinds, []byte("spec: {versions: [{name: v1}]}"))).To(MatchError("version v1 has no schema"))
	g.Expect(add(kinds, []byte("a: 1"))).NotTo(Succeed())
}
