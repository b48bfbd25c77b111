package capf

import "encoding/binary"

// newBody returns an empty body for a command, nil when the command is not used.
func newBody(c Command) Body {
	switch c {
	case cmdAuthRequest:
		return new(AuthRequest)
	case cmdAuthResponse:
		return new(AuthResponse)
	case cmdKeyGenerateRequest:
		return new(KeyGenerateRequest)
	case cmdKeyGenerateResponse:
		return new(KeyGenerateResponse)
	case cmdStoreRequest:
		return new(StoreRequest)
	case cmdStoreResponse:
		return new(StoreResponse)
	case cmdFetchRequest:
		return new(FetchRequest)
	case cmdFetchResponse:
		return new(FetchResponse)
	case cmdDeleteRequest:
		return new(DeleteRequest)
	case cmdDeleteResponse:
		return new(DeleteResponse)
	case cmdEndSession:
		return new(EndSession)
	case cmdRetryLater:
		return new(RetryLater)
	case cmdInProgress:
		return new(InProgress)
	}
	return nil
}

// AuthRequest opens the dialogue. A phone follows its <capfAuthMode>, not AuthType.
//
//	VERSION(1) AUTH_TYPE(1)
type AuthRequest struct {
	Version  byte
	AuthType byte // 0 when the server leaves it out
}

func (*AuthRequest) command() Command { return cmdAuthRequest }

func (m *AuthRequest) marshal(w *elements) error {
	w.addByte(tagVersion, m.Version)
	w.addByte(tagAuthType, m.AuthType)
	return nil
}

func (m *AuthRequest) unmarshal(e *elements) (err error) {
	if m.Version, err = e.byteOf(tagVersion); err != nil {
		return err
	}
	if e.has(tagAuthType) {
		m.AuthType, err = e.byteOf(tagAuthType)
	}
	return err
}

// AuthResponse names the device and proves it (§6). Certificate, SignedData, SUDI and SHA2SignedData are empty when absent.
//
//	REASON(1) [CERTIFICATE SIGNED_DATA] VERSION(1) PASSWORD DEVICE_NAME [SUDI_DATA] [SHA2_SIGNED_DATA]
type AuthResponse struct {
	Reason         Reason
	Type           CertificateType
	Certificate    []byte // DER
	SignedData     []byte
	Version        byte
	Password       string
	DeviceName     string
	SUDI           []byte
	SHA2SignedData []byte
}

func (*AuthResponse) command() Command { return cmdAuthResponse }

func (m *AuthResponse) marshal(w *elements) error {
	w.addByte(tagReason, byte(m.Reason))
	if len(m.Certificate) > 0 {
		w.add(tagCertificate, wrapCertificate(m.Type, m.Certificate))
	}
	if len(m.SignedData) > 0 {
		w.add(tagSignedData, m.SignedData)
	}
	w.addByte(tagVersion, m.Version)
	w.addText(tagPassword, m.Password)
	w.addText(tagDeviceName, m.DeviceName)
	if len(m.SUDI) > 0 {
		w.add(tagSUDIData, m.SUDI)
	}
	if len(m.SHA2SignedData) > 0 {
		w.add(tagSHA2Signed, m.SHA2SignedData)
	}
	return nil
}

func (m *AuthResponse) unmarshal(e *elements) error {
	reason, err := e.byteOf(tagReason)
	if err != nil {
		return err
	}
	m.Reason = Reason(reason)
	if e.has(tagCertificate) {
		if m.Type, m.Certificate, err = unwrapCertificate(e.found[tagCertificate]); err != nil {
			return err
		}
	}
	m.SignedData = e.found[tagSignedData]
	if m.Version, err = e.byteOf(tagVersion); err != nil {
		return err
	}
	// A soft client in a certificate mode may leave the password out; an empty one says the same.
	if e.has(tagPassword) {
		if m.Password, err = e.textOf(tagPassword); err != nil {
			return err
		}
	}
	if m.DeviceName, err = e.textOf(tagDeviceName); err != nil {
		return err
	}
	m.SUDI = e.found[tagSUDIData]
	m.SHA2SignedData = e.found[tagSHA2Signed]
	return nil
}

// KeyGenerateRequest asks for a key.
//
//	RSA: KEY_SIZE(2) KEY_TYPE(1) = 0   ·   EC: KEY_TYPE(1) = 1 CURVE(1)   ·   to a version 2 client: KEY_SIZE(2)
type KeyGenerateRequest struct {
	Key      KeyKind
	SizeOnly bool // the form of version 2
}

func (*KeyGenerateRequest) command() Command { return cmdKeyGenerateRequest }

var curves = []KeyKind{P256, P384, P521} // in the order of their CURVE values

func (m *KeyGenerateRequest) marshal(w *elements) error {
	if bits := m.Key.bits(); bits != 0 {
		w.add(tagKeySize, binary.BigEndian.AppendUint16(nil, uint16(bits)))
		if !m.SizeOnly {
			w.addByte(tagKeyType, 0)
		}
		return nil
	}
	for i, k := range curves {
		if k == m.Key && !m.SizeOnly {
			w.addByte(tagKeyType, 1)
			w.addByte(tagCurve, byte(i))
			return nil
		}
	}
	return malformed("no request for a key of kind %q", m.Key)
}

func (m *KeyGenerateRequest) unmarshal(e *elements) error {
	keyType := byte(0)
	if e.has(tagKeyType) {
		keyType = e.found[tagKeyType][0]
	} else {
		m.SizeOnly = true
	}
	switch keyType {
	case 0:
		v, err := e.bytesOf(tagKeySize)
		if err != nil {
			return err
		}
		bits := int(binary.BigEndian.Uint16(v))
		for _, k := range []KeyKind{RSA2048, RSA3072, RSA4096} {
			if k.bits() == bits {
				m.Key = k
				return nil
			}
		}
		return malformed("RSA key of %d bits", bits)
	case 1:
		c, err := e.byteOf(tagCurve)
		if err != nil {
			return err
		}
		if int(c) >= len(curves) {
			return malformed("curve %d", c)
		}
		m.Key = curves[c]
		return nil
	}
	return malformed("key type %d", keyType)
}

// KeyGenerateResponse brings the public key, a DER SubjectPublicKeyInfo, or the reason why there is none.
//
//	PUBLIC_KEY   ·   REASON(1)
type KeyGenerateResponse struct {
	PublicKey []byte
	Reason    Reason // meaningful when PublicKey is empty
}

func (*KeyGenerateResponse) command() Command { return cmdKeyGenerateResponse }

func (m *KeyGenerateResponse) marshal(w *elements) error {
	if len(m.PublicKey) > 0 {
		w.add(tagPublicKey, m.PublicKey)
		return nil
	}
	w.addByte(tagReason, byte(m.Reason))
	return nil
}

func (m *KeyGenerateResponse) unmarshal(e *elements) (err error) {
	if e.has(tagPublicKey) {
		m.PublicKey, err = e.bytesOf(tagPublicKey)
		return err
	}
	reason, err := e.byteOf(tagReason)
	m.Reason = Reason(reason)
	return err
}

// StoreRequest gives the phone its certificate.
//
//	CERTIFICATE_TYPE(1) CERTIFICATE
type StoreRequest struct {
	Type        CertificateType
	Certificate []byte // DER
}

func (*StoreRequest) command() Command { return cmdStoreRequest }

func (m *StoreRequest) marshal(w *elements) error {
	w.addByte(tagCertType, byte(m.Type))
	w.add(tagCertificate, wrapCertificate(m.Type, m.Certificate))
	return nil
}

func (m *StoreRequest) unmarshal(e *elements) error {
	typ, err := e.byteOf(tagCertType)
	if err != nil {
		return err
	}
	v, err := e.bytesOf(tagCertificate)
	if err != nil {
		return err
	}
	if _, m.Certificate, err = unwrapCertificate(v); err != nil {
		return err
	}
	m.Type = CertificateType(typ)
	if m.Type != TypeLSC && m.Type != TypeMIC {
		return malformed("certificate type %d", typ)
	}
	return nil
}

// StoreResponse tells whether the certificate is stored.
//
//	REASON(1)
type StoreResponse struct{ Reason Reason }

func (*StoreResponse) command() Command              { return cmdStoreResponse }
func (m *StoreResponse) marshal(w *elements) error   { return marshalReason(w, m.Reason) }
func (m *StoreResponse) unmarshal(e *elements) error { return unmarshalReason(e, &m.Reason) }

// FetchRequest asks for the LSC. It has no elements.
type FetchRequest struct{}

func (*FetchRequest) command() Command          { return cmdFetchRequest }
func (*FetchRequest) marshal(*elements) error   { return nil }
func (*FetchRequest) unmarshal(*elements) error { return nil }

// FetchResponse brings the certificate when Reason is ReasonDone.
//
//	REASON(1) [CERTIFICATE]
type FetchResponse struct {
	Reason      Reason
	Type        CertificateType
	Certificate []byte // DER
}

func (*FetchResponse) command() Command { return cmdFetchResponse }

func (m *FetchResponse) marshal(w *elements) error {
	w.addByte(tagReason, byte(m.Reason))
	if len(m.Certificate) > 0 {
		w.add(tagCertificate, wrapCertificate(m.Type, m.Certificate))
	}
	return nil
}

func (m *FetchResponse) unmarshal(e *elements) error {
	if err := unmarshalReason(e, &m.Reason); err != nil {
		return err
	}
	v, ok := e.found[tagCertificate]
	if !ok {
		if m.Reason == ReasonDone {
			return malformed("success without a certificate")
		}
		return nil
	}
	var err error
	m.Type, m.Certificate, err = unwrapCertificate(v)
	return err
}

// DeleteRequest has the LSC deleted. It has no elements.
type DeleteRequest struct{}

func (*DeleteRequest) command() Command          { return cmdDeleteRequest }
func (*DeleteRequest) marshal(*elements) error   { return nil }
func (*DeleteRequest) unmarshal(*elements) error { return nil }

// DeleteResponse tells whether there was a certificate to delete.
//
//	REASON(1)
type DeleteResponse struct{ Reason Reason }

func (*DeleteResponse) command() Command              { return cmdDeleteResponse }
func (m *DeleteResponse) marshal(w *elements) error   { return marshalReason(w, m.Reason) }
func (m *DeleteResponse) unmarshal(e *elements) error { return unmarshalReason(e, &m.Reason) }

// EndSession is the server's last message; it then closes.
//
//	REASON(1)
type EndSession struct{ Reason Reason }

func (*EndSession) command() Command              { return cmdEndSession }
func (m *EndSession) marshal(w *elements) error   { return marshalReason(w, m.Reason) }
func (m *EndSession) unmarshal(e *elements) error { return unmarshalReason(e, &m.Reason) }

// RetryLater asks a phone to come back. Its RETRY_DELAY has no known layout: it is not written and not read.
type RetryLater struct{}

func (*RetryLater) command() Command          { return cmdRetryLater }
func (*RetryLater) marshal(*elements) error   { return nil }
func (*RetryLater) unmarshal(*elements) error { return nil }

// InProgress is a sign of life from a phone that is still making its key. It has no elements.
type InProgress struct{}

func (*InProgress) command() Command          { return cmdInProgress }
func (*InProgress) marshal(*elements) error   { return nil }
func (*InProgress) unmarshal(*elements) error { return nil }

func marshalReason(w *elements, r Reason) error {
	w.addByte(tagReason, byte(r))
	return nil
}

func unmarshalReason(e *elements, r *Reason) error {
	v, err := e.byteOf(tagReason)
	*r = Reason(v)
	return err
}
