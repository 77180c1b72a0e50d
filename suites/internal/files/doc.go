// Package files judges a platform by its files alone: what no cluster can see,
// or sees too late. It reads the repositories through the model of package
// platform, needs no cluster and no network, and takes about a second.
//
// Judged are the platform's own repository and those that tenants draw on, whole;
// of all others, such as a repository of policies with its bad examples, what
// builds read.
package files
