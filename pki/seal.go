package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyHeader starts a key file; 64 hexadecimal digits and a line feed follow.
const keyHeader = "ringfence-pki-key-1 "

// sealer encrypts private keys at rest. Its id is derived from the key and names this appliance in state keys and serial
// numbers: whoever holds the key file is that appliance.
type sealer struct {
	id   [4]byte // top bit clear, not zero
	aead cipher.AEAD
	code []byte // MAC key for codes
}

func (s *sealer) node() string { return hex.EncodeToString(s.id[:]) }

func newSealer(key []byte) (*sealer, error) {
	derive := func(info string, n int) []byte {
		b, err := hkdf.Key(sha256.New, key, nil, info, n)
		if err != nil {
			panic(err) // lengths are constants
		}
		return b
	}
	block, err := aes.NewCipher(derive("ringfence pki seal 1", 32))
	if err != nil {
		return nil, err
	}
	s := &sealer{code: derive("ringfence capf code 1", 32)}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	copy(s.id[:], derive("ringfence node 1", 4))
	s.id[0] = s.id[0]&0x7f | 0x10 // no leading zero digit, so that serials have one length
	return s, nil
}

// seal encrypts a value that will stand under the given state key and nowhere else.
//
//	1  nonce(12)  ciphertext and tag
func (s *sealer) seal(key string, plain []byte) []byte {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = 1
	nonce := out[1:]
	rand.Read(nonce)
	return s.aead.Seal(out, nonce, plain, []byte(key))
}

func (s *sealer) open(key string, sealed []byte) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < 1+n || sealed[0] != 1 {
		return nil, errors.New("sealed key: unknown form")
	}
	plain, err := s.aead.Open(nil, sealed[1:1+n], sealed[1+n:], []byte(key))
	if err != nil {
		return nil, fmt.Errorf("sealed key: %w", ErrKeyFile)
	}
	return plain, nil
}

// codeSum is what is kept of a device's code.
func (s *sealer) codeSum(device, code string) []byte {
	m := hmac.New(sha256.New, s.code)
	m.Write([]byte(device))
	m.Write([]byte{0})
	m.Write([]byte(code))
	return m.Sum(nil)
}

// readKeyFile returns the key, or nil when there is no file.
func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), keyHeader)
	if !ok {
		return nil, fmt.Errorf("key file %s does not start with %q: it is damaged or another file; put it back from the backup", path, keyHeader)
	}
	key, err := hex.DecodeString(text)
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("key file %s does not hold 64 hexadecimal digits: it is damaged; put it back from the backup", path)
	}
	return key, nil
}

// makeKeyFile writes a new key, durably, before anything is encrypted with it.
func makeKeyFile(path string) ([]byte, error) {
	key := make([]byte, 32)
	rand.Read(key)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make key file: %w", err)
	}
	_, err = f.WriteString(keyHeader + hex.EncodeToString(key) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("make key file: %w", err)
	}
	return key, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
