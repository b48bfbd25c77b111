// Package e2e holds the end-to-end tests: the built daemon, the simulated phone and foreign software over real sockets.
package e2e
