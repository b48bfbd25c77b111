package legacytls

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"

	"ringfence/internal/legacytls/cbc"
)

// handshake is the server's side of one. It waits for one message of the client after the other:
//
//	hello ─┬─▶ [certificate] ─▶ keyExchange ─▶ [verify] ─▶ changeCipher ─▶ finished ─▶ done     full
//	       └───────────────────────────────────────────▶ changeCipher ─▶ finished ─▶ done     resumed
//
// Full: after hello we send ServerHello, Certificate, [CertificateRequest], ServerHelloDone; after finished, ChangeCipherSpec and
// Finished. Resumed: after hello we send ServerHello, ChangeCipherSpec and Finished. What stands in brackets is there when a
// certificate is asked for, verify when one came.
type handshake struct {
	*Conn
	hello   Hello
	key     crypto.Decrypter
	random  [32]byte
	suite   uint16
	master  []byte
	keys    directions
	hashes  *transcript
	chain   [][]byte
	resumed bool
	keep    bool
	id      sessionID // the connection's own only when the client has proved that it knows the session
	fault   error     // of the premaster secret; never shown to the peer

	buf            []byte // of the client's messages, not yet taken
	bytes, records int
	flight         []byte
}

type handshakeState int

const (
	stateHello handshakeState = iota
	stateCertificate
	stateKeyExchange
	stateVerify
	stateChangeCipher
	stateFinished
	stateDone
)

// String names what is waited for.
func (s handshakeState) String() string {
	return [...]string{"ClientHello", "Certificate", "ClientKeyExchange", "CertificateVerify", "ChangeCipherSpec", "Finished", "nothing"}[s]
}

// expects is the type of message that a state waits for.
var expects = map[handshakeState]byte{
	stateHello: msgClientHello, stateCertificate: msgCertificate, stateKeyExchange: msgClientKeyExchange,
	stateVerify: msgCertificateVerify, stateFinished: msgFinished,
}

// Bounds of what a client may send in a handshake. A chain of ten certificates has room, and so have fragments of one byte for
// an ordinary one.
const (
	maxMessage          = 32 << 10
	maxHandshakeBytes   = 64 << 10
	maxHandshakeRecords = 4096
)

func (h *handshake) run() error {
	if err := h.cfg.check(); err != nil {
		return err
	}
	h.hashes = newTranscript()
	for s := stateHello; s != stateDone; {
		next, err := h.step(s)
		if err != nil {
			if h.fault != nil {
				err = fmt.Errorf("%w (%w)", err, h.fault)
			}
			return fmt.Errorf("legacytls: waiting for %s: %w", s, err)
		}
		s = next
	}
	if len(h.buf) > 0 {
		return fault(alertUnexpectedMessage, "legacytls: message after Finished")
	}
	return nil
}

// step waits for what a state waits for and handles it.
func (h *handshake) step(s handshakeState) (handshakeState, error) {
	if s == stateChangeCipher {
		return h.onChangeCipher()
	}
	message, body, err := h.readMessage()
	if err != nil {
		return s, err
	}
	if message[0] != expects[s] {
		return s, fault(alertUnexpectedMessage, "message of type %d", message[0])
	}
	var next handshakeState
	switch s {
	case stateHello:
		h.hashes.add(message)
		return h.onHello(body)
	case stateCertificate:
		next, err = h.onCertificate(body)
	case stateKeyExchange:
		next, err = h.onKeyExchange(body)
	case stateVerify:
		next, err = h.onVerify(body)
	case stateFinished:
		return h.onFinished(message, body)
	}
	h.hashes.add(message) // after verify has looked at what came before it
	return next, err
}

// readMessage returns the next whole message, however it was cut into records.
func (h *handshake) readMessage() (message, body []byte, err error) {
	for {
		if body, rest, ok := cutMessage(h.buf); ok {
			message = h.buf[:messageHeader+len(body)]
			h.buf = rest
			return message, body, nil
		}
		if len(h.buf) >= messageHeader && int(h.buf[1])<<16+int(h.buf[2])<<8+int(h.buf[3]) > maxMessage {
			return nil, nil, fault(alertDecodeError, "message of more than %d bytes", maxMessage)
		}
		typ, payload, err := h.readCounted()
		if err != nil {
			return nil, nil, err
		}
		if typ != typeHandshake {
			return nil, nil, fault(alertUnexpectedMessage, "record of type %d", typ)
		}
		h.buf = append(h.buf, payload...)
	}
}

// readCounted reads a record that is no alert, within the bounds of a handshake.
func (h *handshake) readCounted() (typ byte, payload []byte, err error) {
	for {
		typ, payload, err = h.readRecord()
		if err != nil {
			return 0, nil, err
		}
		h.records++
		if h.bytes += headerSize + len(payload); h.bytes > maxHandshakeBytes || h.records > maxHandshakeRecords {
			return 0, nil, fault(alertUnexpectedMessage, "handshake of %d bytes in %d records", h.bytes, h.records)
		}
		if typ != typeAlert {
			return typ, payload, nil
		}
		if err := h.alert(payload); errors.Is(err, io.EOF) {
			return 0, nil, errors.New("closed by the peer")
		} else if err != nil {
			return 0, nil, err
		}
	}
}

func (h *handshake) onHello(body []byte) (handshakeState, error) {
	if err := h.hello.parse(body); err != nil {
		return 0, err
	}
	m := &h.hello.message
	version := h.hello.agreed()
	if version == 0 {
		return 0, fault(alertProtocolVersion, "client offers version %#04x", h.hello.Version)
	}
	h.version = version
	if h.suite = h.hello.first(); h.suite == 0 {
		return 0, fault(alertHandshakeFailure, "no suite in common: %#04x", h.hello.Suites[:min(len(h.hello.Suites), 32)])
	}
	if version < tls.VersionTLS12 && m.signals(signalFallback) {
		return 0, fault(alertInappropriateFallback, "client fell back to %s", tls.VersionName(version))
	}
	if !h.hello.uncompressed() {
		return 0, fault(alertIllegalParameter, "client wants compression")
	}
	if data, ok := m.extension(extRenegotiation); ok && (len(data) != 1 || data[0] != 0) {
		return 0, fault(alertHandshakeFailure, "hello of a renegotiation")
	}
	h.random = serverRandom(version)
	h.hs.state = tls.ConnectionState{Version: version, CipherSuite: h.suite, ServerName: h.hello.ServerName}
	if ses, ok := h.resumable(); ok {
		return h.resume(ses)
	}
	return h.full()
}

// agreed is the newest version of this package that the client offers, or 0.
func (h Hello) agreed() uint16 {
	best := uint16(0)
	for _, v := range h.message.versions() {
		if v <= tls.VersionTLS12 {
			best = max(best, v)
		}
	}
	return best
}

// serverRandom ends in the mark of RFC 8446 §4.1.3. The port of this endpoint has TLS 1.3, by crypto/tls; a client that has it
// too and is here all the same was made to look old by somebody in between.
func serverRandom(version uint16) (r [32]byte) {
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	mark := "DOWNGRD\x00"
	if version >= tls.VersionTLS12 {
		mark = "DOWNGRD\x01"
	}
	copy(r[24:], mark)
	return r
}

// resumable finds the session that the client asks for, if it still fits.
func (h *handshake) resumable() (*session, bool) {
	ses, ok := h.cfg.Sessions.get(h.hello.message.SessionID)
	if !ok || ses.version != h.version || !slices.Contains(h.hello.Suites, ses.suite) {
		return nil, false
	}
	// No certificate asked for, none remembered; asked for, one remembered: a phone that had none shall show the one it gets.
	if asked := h.cfg.ClientAuth != tls.NoClientCert; asked != (len(ses.chain) > 0) {
		return nil, false
	}
	return ses, true
}

func (h *handshake) resume(ses *session) (handshakeState, error) {
	h.resumed, h.suite, h.master, h.chain, h.id = true, ses.suite, ses.master, ses.chain, ses.id
	h.hs.state.DidResume, h.hs.state.CipherSuite = true, ses.suite
	if _, err := h.parseChain(); err != nil {
		return 0, err
	}
	if err := h.verifyConnection(); err != nil {
		h.cfg.Sessions.drop(h.id)
		return 0, err
	}
	h.keys = keyBlock(h.version, h.suite, h.master, &h.hello.message.Random, &h.random)
	if err := h.sendHello(h.id[:]); err != nil {
		return 0, err
	}
	if err := h.finish(); err != nil {
		return 0, err
	}
	return stateChangeCipher, nil
}

func (h *handshake) full() (handshakeState, error) {
	if h.cfg.Certificate == nil {
		return 0, fault(alertInternalError, "no server certificate configured")
	}
	cert, err := h.cfg.Certificate(h.hello.info(h.conn))
	if err != nil || cert == nil || len(cert.Certificate) == 0 {
		return 0, fault(alertInternalError, "no server certificate: %w", err)
	}
	if h.key, err = decrypter(cert); err != nil {
		return 0, fault(alertHandshakeFailure, "%w", err)
	}
	var id []byte
	if h.cfg.Sessions != nil {
		h.id, h.keep = newSessionID(), true
		id = h.id[:]
	}
	if err := h.sendHello(id); err != nil {
		return 0, err
	}
	body, err := (&certificate{Chain: cert.Certificate}).Marshal()
	if err != nil {
		return 0, fault(alertInternalError, "certificate message: %w", err)
	}
	h.queue(msgCertificate, body)
	next := stateKeyExchange
	if h.cfg.ClientAuth != tls.NoClientCert {
		next = stateCertificate
		req := certificateRequest{Types: []byte{certTypeRSA}, Algorithms: []uint16{rsaSHA256, rsaSHA1}, Authorities: h.cfg.Authorities}
		if body, err = req.Marshal(h.version); err != nil {
			return 0, fault(alertInternalError, "certificate request: %w", err)
		}
		h.queue(msgCertificateRequest, body)
	}
	h.queue(msgServerHelloDone, nil)
	return next, h.flush()
}

func (h *handshake) sendHello(id []byte) error {
	m := serverHello{Version: h.version, Random: h.random, SessionID: id, Suite: h.suite}
	if _, ok := h.hello.message.extension(extRenegotiation); ok || h.hello.message.signals(signalRenegotiation) {
		m.Extensions = []extension{{extRenegotiation, []byte{0}}}
	}
	body, err := m.Marshal()
	if err != nil {
		return fault(alertInternalError, "server hello: %w", err)
	}
	h.queue(msgServerHello, body)
	return nil
}

func (h *handshake) onCertificate(body []byte) (handshakeState, error) {
	var m certificate
	if err := m.Unmarshal(body); err != nil {
		return 0, err
	}
	h.chain = m.Chain
	if len(h.chain) == 0 {
		if h.cfg.ClientAuth == tls.RequireAnyClientCert {
			return 0, fault(alertHandshakeFailure, "client has no certificate")
		}
		return stateKeyExchange, nil
	}
	pub, err := h.parseChain()
	if err != nil {
		return 0, err
	}
	// crypto/rsa refuses keys that are too short; too long ones are work that strangers make.
	if k, ok := pub.(*rsa.PublicKey); !ok || k.N.BitLen() > 8192 {
		return 0, fault(alertUnsupportedCertificate, "client certificate with a key of type %T", pub)
	}
	return stateKeyExchange, nil
}

// parseChain sets the certificates of the connection's state and returns the first one's key, nil if there is none.
func (h *handshake) parseChain() (crypto.PublicKey, error) {
	certs := make([]*x509.Certificate, len(h.chain))
	for i, der := range h.chain {
		var err error
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fault(alertBadCertificate, "client certificate: %w", err)
		}
	}
	if len(certs) == 0 {
		return nil, nil
	}
	h.hs.state.PeerCertificates = certs
	return certs[0].PublicKey, nil
}

func (h *handshake) onKeyExchange(body []byte) (handshakeState, error) {
	var m clientKeyExchange
	if err := m.Unmarshal(body); err != nil {
		return 0, err
	}
	var premaster []byte
	premaster, h.fault = openPremaster(h.key, m.Encrypted, h.hello.message.Version)
	h.master = masterSecret(h.version, premaster, &h.hello.message.Random, &h.random)
	h.keys = keyBlock(h.version, h.suite, h.master, &h.hello.message.Random, &h.random)
	if len(h.chain) > 0 {
		return stateVerify, nil
	}
	return stateChangeCipher, nil
}

// onVerify checks that the client has the key of its certificate.
func (h *handshake) onVerify(body []byte) (handshakeState, error) {
	var m certificateVerify
	if err := m.Unmarshal(h.version, body); err != nil {
		return 0, err
	}
	hash, sum := crypto.MD5SHA1, h.hashes.both()
	if h.version >= tls.VersionTLS12 {
		switch m.Algorithm {
		case rsaSHA256:
			hash, sum = crypto.SHA256, h.hashes.sha256.Sum(nil)
		case rsaSHA1:
			hash, sum = crypto.SHA1, h.hashes.sha1.Sum(nil)
		default:
			return 0, fault(alertIllegalParameter, "signature with algorithm %#04x", m.Algorithm)
		}
	}
	pub := h.hs.state.PeerCertificates[0].PublicKey.(*rsa.PublicKey) // onCertificate saw to it
	if err := rsa.VerifyPKCS1v15(pub, hash, sum, m.Signature); err != nil {
		return 0, fault(alertDecryptError, "signature of the client: %w", err)
	}
	return stateChangeCipher, nil
}

func (h *handshake) verifyConnection() error {
	if h.cfg.VerifyConnection == nil {
		return nil
	}
	if err := h.cfg.VerifyConnection(h.hs.state); err != nil {
		return fault(alertBadCertificate, "%w", err)
	}
	return nil
}

func (h *handshake) onChangeCipher() (handshakeState, error) {
	if len(h.buf) > 0 {
		return 0, fault(alertUnexpectedMessage, "message before ChangeCipherSpec is cut by it")
	}
	typ, payload, err := h.readCounted()
	if err != nil {
		return 0, err
	}
	if typ != typeChangeCipher || len(payload) != 1 || payload[0] != 1 {
		return 0, fault(alertUnexpectedMessage, "record of type %d", typ)
	}
	k := &h.keys.client
	if h.in.opener, err = cbc.NewOpener(k.key, k.mac, k.iv); err != nil {
		return 0, fault(alertInternalError, "%w", err)
	}
	return stateFinished, nil
}

func (h *handshake) onFinished(message, body []byte) (handshakeState, error) {
	if !hmac.Equal(body, h.hashes.finished(h.version, h.master, "client")) {
		return 0, fault(alertDecryptError, "wrong Finished")
	}
	h.hashes.add(message)
	h.session = h.id
	if h.resumed {
		return stateDone, nil
	}
	// Only now: who is asked about knows its key, and the client has nothing more to send, so that closing does not reset the
	// connection and destroy the alert on its way.
	if err := h.verifyConnection(); err != nil {
		return 0, err
	}
	// Kept before our Finished is out: a client that reconnects at once shall find its session.
	if asked := h.cfg.ClientAuth != tls.NoClientCert; h.keep && asked == (len(h.chain) > 0) {
		h.cfg.Sessions.put(&session{id: h.id, version: h.version, suite: h.suite, master: h.master, chain: h.chain})
	}
	return stateDone, h.finish()
}

// finish sends ChangeCipherSpec and Finished.
func (h *handshake) finish() error {
	h.flight = h.appendRecord(h.flight, typeChangeCipher, []byte{1})
	k := &h.keys.server
	var err error
	if h.out.sealer, err = cbc.NewSealer(k.key, k.mac, k.iv); err != nil {
		return fault(alertInternalError, "%w", err)
	}
	h.queue(msgFinished, h.hashes.finished(h.version, h.master, "server"))
	return h.flush()
}

// queue adds a message to the flight, in records of its own as old stacks have it.
func (h *handshake) queue(typ byte, body []byte) {
	message := framed(typ, body)
	h.hashes.add(message)
	for len(message) > 0 {
		n := min(len(message), maxPlain)
		h.flight = h.appendRecord(h.flight, typeHandshake, message[:n])
		message = message[n:]
	}
}

// flush sends the flight in one write.
func (h *handshake) flush() error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	err := h.sendLocked(h.flight)
	h.flight = nil
	return err
}
