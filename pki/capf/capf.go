// Package capf implements the Certificate Authority Proxy Function: the dialogue in which a server has a phone make a key
// and store a certificate (its LSC), give the certificate back, or delete it. Both sides are here: Server, which drives the
// dialogue and asks a Backend what is due, and Client, which plays the phone.
//
// It follows the protocol page capf.md; sections named in comments are of that page.
// Protocol version 3 is spoken; phones that answer version 2 are served with RSA keys. Nothing is known about a version 1.
//
// Left out: the commands of which only the name is known (ENCRYPT, DECRYPT, STATUS, ABORT, SIGN) and RETRY_LATER, whose
// layout nobody has seen; they end the session when they arrive.
package capf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
)

// KeyKind is an algorithm and size of a phone's key. The texts are those of the configuration.
type KeyKind string

// The key kinds that CAPF can ask for (§2.2 KEY_SIZE, CURVE). RSA below 2048 bits is not offered.
const (
	RSA2048 KeyKind = "rsa2048"
	RSA3072 KeyKind = "rsa3072"
	RSA4096 KeyKind = "rsa4096"
	P256    KeyKind = "p256"
	P384    KeyKind = "p384"
	P521    KeyKind = "p521"
)

// IsEC reports whether the kind is an elliptic curve.
func (k KeyKind) IsEC() bool { return k == P256 || k == P384 || k == P521 }

// Known reports whether the kind is one of the six.
func (k KeyKind) Known() bool { return k.IsEC() || k.bits() != 0 }

// bits is the size of an RSA modulus, 0 for other kinds.
func (k KeyKind) bits() int {
	switch k {
	case RSA2048:
		return 2048
	case RSA3072:
		return 3072
	case RSA4096:
		return 4096
	}
	return 0
}

// curve is the curve of an EC kind, nil for other kinds.
func (k KeyKind) curve() elliptic.Curve {
	switch k {
	case P256:
		return elliptic.P256()
	case P384:
		return elliptic.P384()
	case P521:
		return elliptic.P521()
	}
	return nil
}

// KindOf tells the kind of a public key, or "" when it is none of the six.
func KindOf(pub crypto.PublicKey) KeyKind {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		for _, k := range []KeyKind{RSA2048, RSA3072, RSA4096} {
			if pub.N.BitLen() == k.bits() {
				return k
			}
		}
	case *ecdsa.PublicKey:
		for _, k := range []KeyKind{P256, P384, P521} {
			if pub.Curve == k.curve() {
				return k
			}
		}
	}
	return ""
}

// GenerateKey makes a key of a kind.
func GenerateKey(kind KeyKind) (crypto.Signer, error) {
	switch {
	case kind.bits() != 0:
		return rsa.GenerateKey(rand.Reader, kind.bits())
	case kind.IsEC():
		return ecdsa.GenerateKey(kind.curve(), rand.Reader)
	}
	return nil, fmt.Errorf("capf: key kind %q is unknown", kind)
}

// CheckKey refuses a public key that is not of the kind that was asked for, or is weak (§4).
func CheckKey(pub crypto.PublicKey, want KeyKind) error {
	if got := KindOf(pub); got != want {
		if got == "" {
			return fmt.Errorf("public key of a kind that is not offered, %s was asked for", want)
		}
		return fmt.Errorf("public key is %s, %s was asked for", got, want)
	}
	if pub, ok := pub.(*rsa.PublicKey); ok && (pub.E < 65537 || pub.E%2 == 0) {
		return errors.New("public exponent is even or below 65537")
	}
	return nil
}

// Operation is what the server wants of a phone.
type Operation byte

// The operations. None ends the session at once: the normal load, since phones ask at every start.
const (
	None Operation = iota
	Install
	Fetch
	Delete
)

// String names the operation as administrators write it.
func (o Operation) String() string {
	switch o {
	case None:
		return "none"
	case Install:
		return "install"
	case Fetch:
		return "fetch"
	case Delete:
		return "delete"
	}
	return fmt.Sprintf("operation %d", byte(o))
}

// ParseOperation reads what String writes.
func ParseOperation(s string) (Operation, error) {
	for o := None; o <= Delete; o++ {
		if o.String() == s {
			return o, nil
		}
	}
	return None, fmt.Errorf("capf: operation %q is none of none, install, fetch, delete", s)
}
