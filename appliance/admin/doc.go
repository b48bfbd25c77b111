// Package admin is how administrators talk to the running daemon: a control socket with verbs, and an HTTP listener with
// metrics and health.
//
// The control socket is a Unix socket of mode 0600 that speaks HTTP and JSON; whoever connects is asked of the kernel, and
// only root and the daemon's own user are served. A verb is described once (Verb: name, arguments, how its answer is
// printed) and answered by a Handler under the same name, so that a new verb touches neither server nor client:
//
//	ringfence phone show SEP001122AA0001   →   GET /v1/phone/show?arg=SEP001122AA0001   →   PhoneInfo as JSON
//	ringfence phone restart SEP…  (changes) →  POST /v1/phone/restart {"args": ["SEP…"]}
//
// What the verbs show comes from Sources, funcs that the composition root fills in; this package knows no service. Field
// names of the JSON answers are a promise to scripts: they are added to, never renamed.
//
// It leaves out accounts, pages and the API for other machines; those will sit on the same handlers.
package admin
