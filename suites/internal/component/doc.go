// Package component is the one store that every program of a cluster comes
// from, by name and version: kube-apiserver, etcd, source-controller, kyverno
// and the others of scripts/pins/components.yaml.
//
// A component is looked for in three places, in this order: the cache on this
// machine, the registry of the image that the platform names (the program is
// taken out of the image), and the pinned Go modules, from which it is built. A
// few are programs of this project, and built from their source. What each
// component was had from, and the digest of its bytes, is part of the answer and
// ends in the report. A version that is in none of these places is an error;
// nothing is replaced silently.
//
// Clusters whose nodes run containers get the programs as images, each made FROM
// scratch of one program and reproducible; package mirror serves them.
//
// Layout below Options.Dir:
//
//	components/NAME/OS-ARCH/VERSION-KEY/NAME          the program
//	components/NAME/OS-ARCH/VERSION-KEY/record.json   written last: without it there is no program
//	components/NAME/OS-ARCH/VERSION-KEY/layer-*.json  the digest of its layer in an image
//	locks/                                            one lock file per component, shared by all processes
//	pins/FAMILY-KEY/go.{mod,sum}                      where a family is built
//	sources/NAME-KEY/                                 where a program of our own is built
//	modules/                                          modules that are read, with what was verified
package component
