package phone

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// flash is what a phone keeps over a restart, one file each in a directory that only its owner may read.
//
//	ITLFile.tlv CTLFile.tlv   the lists in force
//	lsc.pem                   certificate and key from CAPF
//	config.xml                the last device file that was accepted, in clear
//	state.json                what does not follow from these
type flash struct {
	dir string

	itl, ctl []byte
	lsc      *tls.Certificate
	config   []byte
	state    flashState
}

type flashState struct {
	// Encrypted: the last configuration had encrConfig true, so the next one is asked for as .enc.sgn.
	Encrypted bool `json:"encrypted"`
}

const (
	flashITL    = "ITLFile.tlv"
	flashCTL    = "CTLFile.tlv"
	flashLSC    = "lsc.pem"
	flashConfig = "config.xml"
	flashMisc   = "state.json"
)

func openFlash(dir string) (*flash, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("flash: %w", err)
	}
	f := &flash{dir: dir}
	var err error
	if f.itl, err = f.read(flashITL); err != nil {
		return nil, err
	}
	if f.ctl, err = f.read(flashCTL); err != nil {
		return nil, err
	}
	if f.config, err = f.read(flashConfig); err != nil {
		return nil, err
	}
	b, err := f.read(flashMisc)
	if err != nil {
		return nil, err
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &f.state); err != nil {
			return nil, fmt.Errorf("flash: %s: %w", flashMisc, err)
		}
	}
	b, err = f.read(flashLSC)
	if err != nil {
		return nil, err
	}
	if len(b) > 0 {
		cert, err := tls.X509KeyPair(b, b)
		if err != nil {
			return nil, fmt.Errorf("flash: %s: %w", flashLSC, err)
		}
		f.lsc = &cert
	}
	return f, nil
}

func (f *flash) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("flash: %w", err)
	}
	return b, nil
}

// write replaces a file in one step; a phone that loses power has the old one or the new one.
func (f *flash) write(name string, b []byte) error {
	tmp, err := os.CreateTemp(f.dir, "."+name)
	if err != nil {
		return fmt.Errorf("flash: %w", err)
	}
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(f.dir, name))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("flash: write %s: %w", name, err)
	}
	return nil
}

func (f *flash) remove(name string) error {
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("flash: %w", err)
	}
	return nil
}

func (f *flash) storeITL(b []byte) error {
	f.itl = b
	return f.write(flashITL, b)
}

func (f *flash) storeCTL(b []byte) error {
	f.ctl = b
	return f.write(flashCTL, b)
}

func (f *flash) storeConfig(b []byte, encrypted bool) error {
	f.config, f.state.Encrypted = b, encrypted
	if err := f.write(flashConfig, b); err != nil {
		return err
	}
	return f.storeState()
}

func (f *flash) storeState() error {
	b, err := json.Marshal(f.state)
	if err != nil {
		return fmt.Errorf("flash: %w", err)
	}
	return f.write(flashMisc, b)
}

func (f *flash) storeLSC(der []byte, key crypto.PrivateKey) error {
	if der == nil {
		f.lsc = nil
		return f.remove(flashLSC)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("flash: LSC key: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("flash: LSC: %w", err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	f.lsc = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return f.write(flashLSC, b)
}
