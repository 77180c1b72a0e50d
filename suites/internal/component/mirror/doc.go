// Package mirror is a registry that has what the component store makes images
// of, under the very references that a cluster uses. Nodes ask it before the
// registry that a reference names; what it does not have comes from there as
// usual. It takes no images: each is made when it is first asked for.
package mirror
