// Package source answers the URLs that Flux fetches with what lies on this
// machine: working trees as Git repositories, chart folders as Helm
// repositories.
//
// [Snapshot] turns a folder into a commit of a bare repository without touching
// the folder's own repository. [Commit] and [Reset] lay changes over it and take
// them back. [Serve] starts the one server of a session: an HTTPS proxy that
// terminates TLS with a certificate authority of the session, so that no URL has
// to be rewritten, and a SOCKS5 listener behind which an SSH server speaks for
// every mapped host. A URL that nobody mapped is refused at once, with a message
// that Flux shows in the object's own condition.
package source
