package image

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ringfence/image/update"
)

// Release keys. Each is a pair of pairs, since GRUB knows RSA only: RSA-3072 signs kernel and initramfs, Ed25519 signs updates.
// Two are in force at any time. A folder has release-1.key, release-1.pub, release-2.key and release-2.pub; the .key of the
// one that is not in use may lie in a safe.
const rsaBits = 3072

// Keys are the release keys of a folder.
type Keys struct {
	dir string
	Pub [2]PublicKey
}

// PublicKey is the public half of a release key.
type PublicKey struct {
	Name   string
	Update ed25519.PublicKey
	Boot   *rsa.PublicKey
}

// privateKey is the other half.
type privateKey struct {
	update ed25519.PrivateKey
	boot   *rsa.PrivateKey
}

// Test tells whether one of the keys is for tests.
func (k *Keys) Test() bool { return k.updateKeys()[0].Test() || k.updateKeys()[1].Test() }

// updateKeys are the keys as the init role wants them.
func (k *Keys) updateKeys() []update.Key {
	var out []update.Key
	for _, p := range k.Pub {
		out = append(out, update.Key{Name: p.Name, Public: p.Update})
	}
	return out
}

// MakeKeys makes the two release keys in dir. It never overwrites one. Keys for tests say so in their names, in the image and
// on the console of what boots from it.
func MakeKeys(dir string, test bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for n := 1; n <= 2; n++ {
		name := fmt.Sprintf("release %d", n)
		if test {
			name = fmt.Sprintf("TEST %d, anybody may have this key", n)
		}
		_, up, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		boot, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return err
		}
		var private, public []byte
		for _, k := range []struct {
			use       string
			key, half any
		}{{"update", up, up.Public()}, {"boot", boot, boot.Public()}} {
			headers := map[string]string{"Name": name, "Use": k.use}
			der, err := x509.MarshalPKCS8PrivateKey(k.key)
			if err != nil {
				return err
			}
			private = append(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: headers, Bytes: der})...)
			if der, err = x509.MarshalPKIXPublicKey(k.half); err != nil {
				return err
			}
			public = append(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: headers, Bytes: der})...)
		}
		for _, f := range []struct {
			name string
			data []byte
			mode fs.FileMode
		}{{keyFile(n), private, 0o600}, {pubFile(n), public, 0o644}} {
			file, err := os.OpenFile(filepath.Join(dir, f.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
			if err != nil {
				return err
			}
			_, err = file.Write(f.data)
			if err := errors.Join(err, file.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

func keyFile(n int) string { return fmt.Sprintf("release-%d.key", n) }
func pubFile(n int) string { return fmt.Sprintf("release-%d.pub", n) }

// LoadKeys reads the public halves of the release keys in dir.
func LoadKeys(dir string) (*Keys, error) {
	k := &Keys{dir: dir}
	for n := 1; n <= 2; n++ {
		p := &k.Pub[n-1]
		if err := readPEM(filepath.Join(dir, pubFile(n)), func(b *pem.Block) error {
			key, err := x509.ParsePKIXPublicKey(b.Bytes)
			if err != nil {
				return err
			}
			switch key := key.(type) {
			case ed25519.PublicKey:
				p.Update = key
			case *rsa.PublicKey:
				p.Boot = key
			}
			p.Name = b.Headers["Name"]
			return nil
		}); err != nil {
			return nil, err
		}
		if p.Update == nil || p.Boot == nil {
			return nil, fmt.Errorf("%s does not hold both public keys", pubFile(n))
		}
	}
	return k, nil
}

// private reads the private half of key 1 or 2.
func (k *Keys) private(n int) (p privateKey, err error) {
	err = readPEM(filepath.Join(k.dir, keyFile(n)), func(b *pem.Block) error {
		key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
		if err != nil {
			return err
		}
		switch key := key.(type) {
		case ed25519.PrivateKey:
			p.update = key
		case *rsa.PrivateKey:
			p.boot = key
		}
		return nil
	})
	if err == nil && (p.update == nil || p.boot == nil || !p.boot.PublicKey.Equal(k.Pub[n-1].Boot) || !k.Pub[n-1].Update.Equal(p.update.Public())) {
		err = fmt.Errorf("%s does not fit %s", keyFile(n), pubFile(n))
	}
	return p, err
}

func readPEM(name string, each func(*pem.Block) error) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return nil
		}
		if err := each(b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}
