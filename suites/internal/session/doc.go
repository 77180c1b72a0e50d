// Package session runs a supervisor process and keeps what it starts apart from
// everything else on the machine, so that all of it can be found and ended again.
//
// A session is a folder below the state root. Its supervisor holds a lock on it
// for as long as it lives, writes down in the ledger what it is about to start,
// takes ports from blocks leased to the session, and marks every process with the
// session's ID in its environment. The lock says whether a session lives, and the
// marker which processes are its own: neither depends on a process ID, which the
// system may have given to a stranger since.
//
// The supervisor ends with its client, unless the session is kept, and takes all
// that is the session's with it. When it was killed and could not, [Reap] does.
//
// The package knows nothing of what a session runs: that is a function of its
// caller's ([RunFunc]).
package session
