package bringup

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestUnavailable(t *testing.T) {
	g := NewWithT(t)
	of := func(replicas *int32, status appsv1.DeploymentStatus) string {
		return unavailable(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: appsv1.DeploymentSpec{Replicas: replicas}, Status: status})
	}
	zero, two := int32(0), int32(2)
	g.Expect(of(nil, appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 1})).To(BeEmpty())
	g.Expect(of(nil, appsv1.DeploymentStatus{ObservedGeneration: 1, UpdatedReplicas: 1, AvailableReplicas: 1})).To(Equal("generation 2 was not observed yet"))
	g.Expect(of(&two, appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: 2, AvailableReplicas: 1})).To(Equal("1 of 2 replicas are available"))
	g.Expect(of(&two, appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 2})).To(Equal("2 of 2 replicas are available"))
	g.Expect(of(&zero, appsv1.DeploymentStatus{ObservedGeneration: 2})).To(BeEmpty())
}
