// Package dump keeps what a person needs to understand a failed check, before
// anything is cleaned up: the failure itself and the state of Flux in a folder
// per check, with the events and logs of the pods that it is about, and once per
// environment its objects, events and logs. No secret is written.
package dump
