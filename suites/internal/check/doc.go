// Package check holds what a conformance check is and what becomes of it: its
// stable ID and texts, the outcome per environment and tenant, waivers, the
// result of the whole run, and the report in its three forms (report.json,
// junit.xml, the text at the end).
//
// The package knows neither Ginkgo nor Kubernetes. Specs record outcomes, the
// program summarizes and writes them. What needs a cluster stands in the
// package dump below.
package check
