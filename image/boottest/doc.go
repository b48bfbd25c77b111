// Package boottest starts real images in QEMU and breaks them on purpose. It runs when RINGFENCE_BIN names the folder of a built
// ringfence and RINGFENCE_IMAGE says how much: "gate" for what every change has to pass, "full" for every fault.
//
// Everything is on 127.0.0.1, nobody is root, and nothing is accelerated, so that it runs anywhere; deadlines are for a busy
// machine of two cores.
package boottest
