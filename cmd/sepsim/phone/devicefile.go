package phone

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"

	"ringfence/trust"
	"ringfence/trust/enc"
	"ringfence/trust/sgn"
)

// signed gets a file by the name that the phone's state asks for: NAME.sgn when a list names a file signer, else NAME in
// clear (provisioning §1.2, sgn.md).
func (p *Phone) signed(ctx context.Context, name string) ([]byte, error) {
	signers := p.fileSigners()
	if len(signers) == 0 {
		return p.fetch(ctx, name)
	}
	name += ".sgn"
	b, err := p.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	content, err := sgn.Open(b, name, signers)
	if err != nil {
		return nil, p.refused(StepFile, fileRefusal(name, err))
	}
	return content, nil
}

// fileRefusal sorts the reasons why a signed or sealed file is not believed.
func fileRefusal(name string, err error) *Refusal {
	switch {
	case errors.Is(err, sgn.ErrName):
		return refuse(FileName, err, "%s", name)
	case errors.Is(err, sgn.ErrSigner):
		return refuse(FileSigner, err, "%s", name)
	case errors.Is(err, enc.ErrCipher), errors.Is(err, enc.ErrPhoneKey):
		return refuse(FileSealed, err, "%s", name)
	}
	return refuse(FileSignature, err, "%s", name)
}

// sealed gets the encrypted device file and opens it with the LSC's key.
func (p *Phone) sealed(ctx context.Context) ([]byte, error) {
	name := p.opt.Device + ".cnf.xml.enc.sgn"
	b, err := p.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	id := p.identity()
	if id == nil {
		return nil, p.refused(StepFile, refuse(FileSealed, nil, "%s: the phone has no certificate", name))
	}
	key, ok := id.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return nil, p.refused(StepFile, refuse(FileSealed, nil, "%s: the phone's key is %T", name, id.PrivateKey))
	}
	xml, err := enc.Open(b, name, p.fileSigners(), key)
	if err != nil {
		return nil, p.refused(StepFile, fileRefusal(name, err))
	}
	return xml, nil
}

// fileServers says whether the list makes the phone ask HTTPS 6971 for its device file: version 1.1 with an EC file server.
func (p *Phone) fileServers() bool {
	if !p.man.https {
		return false
	}
	for _, l := range p.lists() {
		if l.Version >= 1 && len(l.FileServers()) > 0 {
			return true
		}
	}
	return false
}

// overHTTPS gets the device file from 6971: unsigned in spite of its name, believed for the server's EC certificate.
func (p *Phone) overHTTPS(ctx context.Context) ([]byte, error) {
	conf := p.tlsConfig(false)
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
			return p.refused(StepFile, refuse(ServerRole, nil, "HTTPS file server has a %T", leaf.PublicKey))
		}
		return p.vouch(ctx, StepFile, leaf, trust.TFTP, "HTTPS file server")
	}
	return p.httpGet(ctx, "https", p.opt.Device+".cnf.xml.sgn", conf)
}

// deviceFile asks for the device file by the name that the phone's state gives (provisioning §1.2) and reads it.
func (p *Phone) deviceFile(ctx context.Context, sealed bool) (xml []byte, c *Config, err error) {
	name := p.opt.Device + ".cnf.xml"
	switch {
	case sealed:
		name += ".enc.sgn"
		xml, err = p.sealed(ctx)
	case p.fileServers():
		if xml, err = p.overHTTPS(ctx); err == nil {
			name += " over HTTPS"
			break
		}
		p.event(StepFile, "HTTPS 6971 does not serve, going on with 6970", err)
		fallthrough
	default:
		if len(p.fileSigners()) > 0 {
			name += ".sgn"
		}
		xml, err = p.signed(ctx, p.opt.Device+".cnf.xml")
	}
	if err != nil {
		if errors.Is(err, errNotFound) {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return nil, nil, err
	}
	c, err = parseConfig(xml, p.man)
	if err != nil {
		return nil, nil, p.refused(StepFile, refuse(FileXML, err, "%s: all of it is dropped", name))
	}
	kind := "configuration"
	if !c.Full {
		kind = "stub"
	}
	p.event(StepFile, fmt.Sprintf("%s: %s of %d bytes accepted", name, kind, len(xml)), nil)
	return xml, c, nil
}
