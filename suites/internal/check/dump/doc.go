// Package dump keeps what a person needs to understand a failed check, before
// anything is cleaned up: the failure itself and the state of Flux in a folder
// per check, and once per environment its objects, events and component logs. No
// secret is written.
package dump
