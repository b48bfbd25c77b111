package pki

// SealSecret encrypts a secret of another area that will stand under the given state key and nowhere else: like private keys, it
// is worth nothing without the key file of this appliance.
func (a *Authority) SealSecret(key string, secret []byte) []byte { return a.seal.seal(key, secret) }

// OpenSecret is the secret that SealSecret has encrypted for this key.
func (a *Authority) OpenSecret(key string, sealed []byte) ([]byte, error) {
	return a.seal.open(key, sealed)
}
