// Package nodeimage makes the node image of kind clusters on a machine that has
// no registry: it runs the recipe that the program ships, with programs from the
// component store, and gives the result to Docker.
//
// What is made is kept in the store's folder, under a name that stands for all
// that it was made from:
//
//	node/VERSION-KEY/node.tar       the root file system of a node
//	node/VERSION-KEY/iptables.tar   the base layer of kube-proxy's image
//	node/VERSION-KEY/record.json    what it was made from
//	node/.work-*                    what is not finished; only the lock's holder uses it
//	locks/node.lock                 shared by all processes
package nodeimage
