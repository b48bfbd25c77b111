package legacytls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/legacytls/cbc"
)

// puppet is a client that does what a test tells it, right or wrong. What is left zero is done right.
type puppet struct {
	net.Conn
	t testing.TB

	version     uint16 // offered; TLS 1.0 when 0
	suites      []uint16
	extensions  []extension
	compression []byte
	resume      *session
	cert        *tls.Certificate
	fragment    int                                               // bytes of a handshake message in a record; all when 0
	encrypt     func(pub *rsa.PublicKey, premaster []byte) []byte // the premaster secret
	breakVerify func(*certificateVerify)                          // changes the signature
	breakFinish func([]byte) []byte                               // changes the Finished message
	before      map[byte]func(p *puppet)                          // runs before a message is sent
	hello       func(*clientHello)

	// Of the handshake.
	agreed    serverHello
	hashes    *transcript
	random    [32]byte
	master    []byte
	sealer    *cbc.Sealer
	opener    *cbc.Opener
	out, in   uint64
	buf       []byte
	peer      *rsa.PublicKey
	requested bool
}

// errAlert is an alert that the server sent.
type errAlert struct{ level, what byte }

func (e errAlert) Error() string { return fmt.Sprintf("alert %d, level %d", e.what, e.level) }

func fatal(what byte) errAlert { return errAlert{levelFatal, what} }

// record sends one record.
func (p *puppet) record(typ byte, payload []byte) error {
	v := p.agreed.Version
	if v == 0 {
		v = tls.VersionTLS10
	}
	body := payload
	if p.sealer != nil {
		body = p.sealer.Seal(nil, cbc.Header{Sequence: p.out, Type: typ, Version: v}, payload)
		p.out++
	}
	return p.raw(typ, v, body)
}

// raw sends a record with this body.
func (p *puppet) raw(typ byte, version uint16, body []byte) error {
	if _, err := p.Conn.Write(append([]byte{typ, byte(version >> 8), byte(version), byte(len(body) >> 8), byte(len(body))}, body...)); err != nil {
		return p.ending() // the server had enough; it has said why
	}
	return nil
}

// message sends a handshake message.
func (p *puppet) message(typ byte, body []byte) error {
	if f := p.before[typ]; f != nil && typ != msgFinished {
		f(p)
	}
	m := framed(typ, body)
	p.hashes.add(m)
	n := len(m)
	if p.fragment > 0 {
		n = p.fragment
	}
	for part := range slices.Chunk(m, n) {
		if err := p.record(typeHandshake, part); err != nil {
			return err
		}
	}
	return nil
}

// receive returns the next record; an alert is an error.
func (p *puppet) receive() (typ byte, payload []byte, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(p.Conn, h[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, int(h[3])<<8|int(h[4]))
	if _, err := io.ReadFull(p.Conn, payload); err != nil {
		return 0, nil, err
	}
	if p.opener != nil {
		payload, err = p.opener.Open(cbc.Header{Sequence: p.in, Type: h[0], Version: p.agreed.Version}, payload)
		p.in++
	}
	if err == nil && h[0] == typeAlert && len(payload) == 2 {
		err = errAlert{payload[0], payload[1]}
	}
	return h[0], payload, err
}

// expect returns the next handshake message.
func (p *puppet) expect() (typ byte, message, body []byte, err error) {
	for {
		if body, rest, ok := cutMessage(p.buf); ok {
			m := p.buf[:messageHeader+len(body)]
			p.buf = rest
			return m[0], m, body, nil
		}
		typ, payload, err := p.receive()
		if err != nil {
			return 0, nil, nil, err
		}
		if typ != typeHandshake {
			return 0, nil, nil, fmt.Errorf("record of type %d", typ)
		}
		p.buf = append(p.buf, payload...)
	}
}

// start sends the hello.
func (p *puppet) start() error {
	if p.version == 0 {
		p.version = tls.VersionTLS10
	}
	if p.suites == nil {
		p.suites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	}
	if p.compression == nil {
		p.compression = []byte{0}
	}
	p.hashes = newTranscript()
	rand.Read(p.random[:])
	m := clientHello{Version: p.version, Random: p.random, Suites: p.suites, Compressions: p.compression, Extensions: p.extensions}
	if p.resume != nil {
		m.SessionID = p.resume.id[:]
	}
	if p.hello != nil {
		p.hello(&m)
	}
	body, err := m.Marshal()
	if err != nil {
		return err
	}
	return p.message(msgClientHello, body)
}

// handshake goes through a whole one.
func (p *puppet) handshake() error {
	if err := p.start(); err != nil {
		return err
	}
	typ, m, body, err := p.expect()
	if err != nil {
		return err
	}
	if typ != msgServerHello {
		return fmt.Errorf("message of type %d", typ)
	}
	p.hashes.add(m)
	if err := p.agreed.Unmarshal(body); err != nil {
		return err
	}
	if p.resume != nil && string(p.agreed.SessionID) == string(p.resume.id[:]) {
		p.master = p.resume.master
		if err := p.serverFinished(); err != nil {
			return err
		}
		return p.finished()
	}
	if err := p.serverFlight(); err != nil {
		return err
	}
	if err := p.keys(); err != nil {
		return err
	}
	if err := p.finished(); err != nil {
		return err
	}
	return p.serverFinished()
}

func (p *puppet) serverFlight() error {
	for {
		typ, m, body, err := p.expect()
		if err != nil {
			return err
		}
		p.hashes.add(m)
		switch typ {
		case msgCertificate:
			var c certificate
			if err := c.Unmarshal(body); err != nil {
				return err
			}
			cert, err := x509.ParseCertificate(c.Chain[0])
			if err != nil {
				return err
			}
			p.peer = cert.PublicKey.(*rsa.PublicKey)
		case msgCertificateRequest:
			var r certificateRequest
			if err := r.Unmarshal(p.agreed.Version, body); err != nil {
				return err
			}
			p.requested = true
		case msgServerHelloDone:
			return nil
		default:
			return fmt.Errorf("message of type %d", typ)
		}
	}
}

// keys sends Certificate, ClientKeyExchange and CertificateVerify.
func (p *puppet) keys() error {
	if p.requested {
		var c certificate
		if p.cert != nil {
			c.Chain = p.cert.Certificate
		}
		body, err := c.Marshal()
		if err != nil {
			return err
		}
		if err := p.message(msgCertificate, body); err != nil {
			return err
		}
	}
	premaster := make([]byte, premasterLen)
	rand.Read(premaster)
	premaster[0], premaster[1] = byte(p.version>>8), byte(p.version)
	p.master = masterSecret(p.agreed.Version, premaster, &p.random, &p.agreed.Random)
	encrypt := p.encrypt
	if encrypt == nil {
		encrypt = encryptPremaster
	}
	body, err := (&clientKeyExchange{Encrypted: encrypt(p.peer, premaster)}).Marshal()
	if err != nil {
		return err
	}
	if err := p.message(msgClientKeyExchange, body); err != nil {
		return err
	}
	if !p.requested || p.cert == nil {
		return nil
	}
	v := certificateVerify{Algorithm: rsaSHA256}
	hash, sum := crypto.MD5SHA1, p.hashes.both()
	if p.agreed.Version >= tls.VersionTLS12 {
		hash, sum = crypto.SHA256, p.hashes.sha256.Sum(nil)
	}
	if key, ok := p.cert.PrivateKey.(*rsa.PrivateKey); ok {
		if v.Signature, err = rsa.SignPKCS1v15(rand.Reader, key, hash, sum); err != nil {
			return err
		}
	}
	if p.breakVerify != nil {
		p.breakVerify(&v)
	}
	if body, err = v.Marshal(p.agreed.Version); err != nil {
		return err
	}
	return p.message(msgCertificateVerify, body)
}

func encryptPremaster(pub *rsa.PublicKey, premaster []byte) []byte {
	//lint:ignore SA1019 this padding is what RSA key exchange has
	b, err := rsa.EncryptPKCS1v15(rand.Reader, pub, premaster)
	if err != nil {
		panic(err)
	}
	return b
}

// sealedFinished stands in puppet.before for a Finished message, whose own number is that of a ChangeCipherSpec record.
const sealedFinished = 255

// finished sends ChangeCipherSpec and Finished.
func (p *puppet) finished() error {
	if f := p.before[typeChangeCipher]; f != nil {
		f(p)
	}
	if err := p.record(typeChangeCipher, []byte{1}); err != nil {
		return err
	}
	k := keyBlock(p.agreed.Version, p.agreed.Suite, p.master, &p.random, &p.agreed.Random).client
	var err error
	if p.sealer, err = cbc.NewSealer(k.key, k.mac, k.iv); err != nil {
		return err
	}
	if f := p.before[sealedFinished]; f != nil {
		f(p)
	}
	body := p.hashes.finished(p.agreed.Version, p.master, "client")
	if p.breakFinish != nil {
		body = p.breakFinish(body)
	}
	return p.message(msgFinished, body)
}

func (p *puppet) serverFinished() error {
	typ, payload, err := p.receive()
	if err != nil {
		return err
	}
	if typ != typeChangeCipher || len(payload) != 1 {
		return fmt.Errorf("record of type %d", typ)
	}
	k := keyBlock(p.agreed.Version, p.agreed.Suite, p.master, &p.random, &p.agreed.Random).server
	if p.opener, err = cbc.NewOpener(k.key, k.mac, k.iv); err != nil {
		return err
	}
	want := p.hashes.finished(p.agreed.Version, p.master, "server")
	typ, m, body, err := p.expect()
	if err != nil {
		return err
	}
	p.hashes.add(m)
	if typ != msgFinished || string(body) != string(want) {
		return errors.New("wrong Finished of the server")
	}
	return nil
}

// session is what can be resumed later.
func (p *puppet) session() *session {
	return &session{id: sessionID(p.agreed.SessionID), master: p.master}
}

// ending reads to the end of the connection and returns the alert before it.
func (p *puppet) ending() error {
	var alert error
	for {
		_, _, err := p.receive()
		if a, ok := errors.AsType[errAlert](err); ok {
			alert = a
			continue
		}
		if err != nil {
			if alert != nil {
				return alert
			}
			return err
		}
	}
}

// pipe runs a server of this package alone on one end of a pipe. The result of its handshake, and then of reading until the
// end, comes through the channels.
type pipe struct {
	hands, end chan error
	server     *Conn
}

func newPipe(t testing.TB, cfg *Config) (*puppet, *pipe) {
	t.Helper()
	ours, theirs := socketPair(t)
	p := &pipe{hands: make(chan error, 1), end: make(chan error, 1), server: Server(ours, cfg)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := p.server.HandshakeContext(context.Background())
		p.hands <- err
		if err == nil {
			_, err = io.Copy(p.server, readerOnly{p.server})
		}
		p.server.Close()
		p.end <- err
	}()
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
		<-done
	})
	return &puppet{Conn: theirs, t: t}, p
}

// socketPair is a connection with buffers, unlike net.Pipe: a server's alert need not wait for a client that is still sending.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		c[i].SetDeadline(time.Now().Add(labTime))
	}
	return c[0], c[1]
}

// readerOnly hides everything but Read.
type readerOnly struct{ io.Reader }

// headerOf is that of the puppet's next record of application data.
func headerOf(p *puppet) cbc.Header {
	return cbc.Header{Sequence: p.out, Type: typeApplication, Version: p.agreed.Version}
}

// macOf is HMAC-SHA1 by crypto/hmac over header and payload.
func macOf(key []byte, h cbc.Header, payload []byte) []byte {
	m := hmac.New(sha1.New, key)
	b := binary.BigEndian.AppendUint64(nil, h.Sequence)
	b = append(b, h.Type, byte(h.Version>>8), byte(h.Version), byte(len(payload)>>8), byte(len(payload)))
	m.Write(b)
	m.Write(payload)
	return m.Sum(nil)
}

// padWith pads by so many bytes, the count included.
func padWith(b []byte, pad int) []byte {
	return append(b, bytes.Repeat([]byte{byte(pad - 1)}, pad)...)
}

// armed switches both directions to their keys.
func (h *handshake) armed() (err error) {
	c, s := h.keys.client, h.keys.server
	if h.in.opener, err = cbc.NewOpener(c.key, c.mac, c.iv); err != nil {
		return err
	}
	h.out.sealer, err = cbc.NewSealer(s.key, s.mac, s.iv)
	return err
}
