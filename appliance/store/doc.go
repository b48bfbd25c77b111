// Package store keeps what must outlive the process, in two files of the state directory.
//
// state.db holds what may not be lost. Every durable write is an operation: who wrote it, in which place of that writer's
// sequence, at which hybrid logical time, over which previous version, which key, which value (design §4, libraries.md
// "Record rules"). Operations are appended to a log; a second bucket, the projection, maps each key to the operation that
// won and can be rebuilt from the log at any time. One goroutine commits, everything that waits in one transaction with one
// fsync, and acknowledges afterwards. The shape is that of a pair of appliances from the first line: a second log of the
// other origin lies beside ours, and the projection's rule (apply.go) is the same for both.
//
// local.db holds what this appliance may lose a second of: bindings, boot records, traces. It is never replicated.
//
// Keys are per field, slash separated: fwd/301/all. A whole user under one key is a defect, because two fields changed on
// the two sides of a cut link must both live.
//
// What it leaves out: the exchange with the other appliance (its peer package reads Ops and will apply what it receives),
// large blobs (files named by their content, with only the name in an operation), and what the values mean.
package store
