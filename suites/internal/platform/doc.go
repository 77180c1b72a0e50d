// Package platform reads a Flux platform repository into a model: its
// environments, tenants, sources, policies, and every object that they declare,
// each with the file and line that it comes from. Checks read the model; only
// this package knows how a repository is laid out. It reads files and nothing
// else: no cluster, no network, no Git command.
//
// # How a repository is read
//
// Every folder clusters/ENV with a flux-system folder in it is an environment.
// Its root Kustomization (gotk-sync.yaml, or what «flux bootstrap» would write
// when the repository has none yet) is built as kustomize-controller builds it,
// and so is every Kustomization found in what was built, as long as a local
// folder is known for its source: the repository under test itself, or a URL of
// [Options.Sources], composed through GitRepository spec.include. What cannot be
// read is listed in [Platform.Unread] with its reason; nothing is dropped in
// silence. Charts are recorded and not rendered: of a tenant's releases that is
// listed too, since what the tenant has is then not known. So are kinds of Flux, or
// of those who extend it, that stand for objects which no file holds.
//
// # What a tenant is
//
// A tenant is the name that a Flux Kustomization answers to, taken from the
// first of these that gives one:
//
//  1. the label toolkit.fluxcd.io/tenant of the Kustomization, which is the label
//     that «flux create tenant» writes
//  2. the same label in its spec.commonMetadata.labels
//  3. the same label of the ServiceAccount that it runs as
//  4. the same label of the namespace that it stands in
//  5. the folder that declares it, clusters/ENV/TENANT, unless it stands in the
//     namespace of the root Kustomization without a targetNamespace
//
// What a tenant's Kustomization brings belongs to that tenant too. A HelmRelease
// that carries the label itself, or through its ServiceAccount or namespace,
// makes a tenant where no Kustomization of that name exists. One name claimed
// from two namespaces or two folders of one environment is an error that names
// both places.
package platform
