// Package config is the declared document: what an administrator states about appliance, people, phones, lines and numbers.
// It reads YAML into a Document, fills in defaults, checks everything that can be known before a phone is involved, and names
// every fault with file, line, column and remedy. It also describes the document: JSON Schema, reference, examples.
//
// The object model is that of protocol page dialplan §2 with appliance, network, VPN, certificates and phones added; the
// checks are those of its §3.1 and the limits of the models of phones (provisioning §4 and §14).
//
// What users and phones change is state and never stands here. Where a user may change what is declared (PIN, speed dials,
// language, forward), the declared value is the initial one.
//
// A document has one authority, a Source: a file, or the newest of the revisions that the store keeps. Either way a document
// with a fault changes nothing.
//
// The package knows no network, no clock and no other area.
package config
