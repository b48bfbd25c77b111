package dtls

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
)

// handshake is the server's side of one handshake. It takes messages and returns flights; it knows neither sockets nor time.
//
//	resumption (§7.1, §7.2)                       PSK (§7.3)
//	C: ClientHello                                C: ClientHello
//	S: ServerHello, CCS, Finished   ──▶ waiting   S: ServerHello, ServerHelloDone          ──▶ waiting
//	C: CCS, Finished                ──▶ done      C: ClientKeyExchange                     ──▶ keyed
//	                                              C: CCS, Finished; S: CCS, Finished       ──▶ done
//
// The legacy kind differs from DTLS 1.2: its ChangeCipherSpec has three bytes and takes a message number, and the transcript
// holds bodies without headers.
type handshake struct {
	kind   Kind
	suite  *suite
	state  hsState
	random [32]byte // of the client: tells a repeated hello from a new one

	serverRandom [32]byte
	transcript   []byte
	master, psk  []byte
	nextSeq      uint16 // of the client's next message
	in, out      protection
	flight       []piece // the last one, to be sent again
}

type hsState uint8

const (
	hsWaiting hsState = iota
	hsKeyed
	hsDone
)

// piece is a record of a flight before it has a sequence number.
type piece struct {
	typ   byte
	epoch uint16
	body  []byte
}

var (
	errMismatch = errors.New("client hello does not fit what was agreed")
	errVerify   = errors.New("finished message does not verify")
	errOrder    = errors.New("handshake message out of order")
)

func (h *handshake) version() uint16 {
	if h.kind == Legacy {
		return VersionLegacy
	}
	return Version12
}

// add appends a message to the transcript.
func (h *handshake) add(typ byte, seq uint16, body []byte) {
	if h.kind == Legacy {
		h.transcript = append(h.transcript, body...)
		return
	}
	h.transcript = append(h.transcript, marshalMessage(typ, seq, body)...)
}

func (h *handshake) handshakePiece(epoch uint16, typ byte, seq uint16, body []byte) piece {
	h.add(typ, seq, body)
	return piece{typeHandshake, epoch, marshalMessage(typ, seq, body)}
}

// newHandshake answers a ClientHello. raw is its body as it came.
func newHandshake(ag *Agreement, seq uint16, hello *clientHello, raw []byte) (*handshake, error) {
	h := &handshake{kind: ag.Kind, random: hello.random, nextSeq: seq + 1}
	switch {
	case ag.Kind == Legacy && hello.version != VersionLegacy:
		return nil, fmt.Errorf("%w: version %#04x", errMismatch, hello.version)
	case ag.Kind != Legacy && (hello.version>>8 != 0xfe || hello.version > Version12):
		return nil, fmt.Errorf("%w: version %#04x", errMismatch, hello.version)
	}
	if ag.Kind == PSK {
		h.suite = choosePSK(hello)
	} else if hello.offers(ag.Suite) {
		h.suite = suites[ag.Suite]
	}
	if h.suite == nil {
		return nil, fmt.Errorf("%w: suites %#04x", errMismatch, hello.suites)
	}
	if _, err := rand.Read(h.serverRandom[:]); err != nil {
		return nil, err
	}
	h.add(msgClientHello, seq, raw)
	sh := serverHello{version: h.version(), random: h.serverRandom, suite: h.suite.id, reneg: hello.reneg && ag.Kind != Legacy}
	if ag.Kind == PSK {
		h.psk = ag.Secret
		h.flight = []piece{
			h.handshakePiece(0, msgServerHello, 0, sh.Marshal()),
			h.handshakePiece(0, msgServerHelloDone, 1, nil),
		}
		return h, nil
	}
	h.master, sh.sessionID = ag.Secret, ag.ID[:]
	first := h.handshakePiece(0, msgServerHello, 0, sh.Marshal())
	if err := h.derive(); err != nil {
		return nil, err
	}
	ccs, finished := []byte{1}, uint16(1)
	if h.kind == Legacy {
		ccs, finished = []byte{1, 0, 1}, 2
	}
	h.flight = []piece{first, {typeCCS, 0, ccs}, h.finish(finished)}
	h.state = hsKeyed
	return h, nil
}

// choosePSK takes the client's first suite if that is ChaCha20 (it has no AES in hardware), else ours.
func choosePSK(hello *clientHello) *suite {
	for _, id := range hello.suites {
		if s := suites[id]; s != nil && (id == 0x00a8 || id == 0x00a9 || id == 0xccab) {
			if id == 0xccab {
				return s
			}
			break
		}
	}
	for _, id := range pskSuites {
		if hello.offers(id) {
			return suites[id]
		}
	}
	return nil
}

func (h *handshake) derive() (err error) {
	h.in, h.out, err = h.suite.keys(h.kind, h.master, h.serverRandom[:], h.random[:])
	return err
}

// finish is our Finished message.
func (h *handshake) finish(seq uint16) piece {
	return h.handshakePiece(1, msgFinished, seq, h.suite.finished(h.kind, h.master, "server finished", h.transcript))
}

// message takes the client's next message; sealed tells that it came under the new keys. flight tells that there is a new
// flight to send.
func (h *handshake) message(f *fragment, sealed bool) (flight bool, err error) {
	switch {
	case h.state == hsWaiting && f.typ == msgClientKeyExchange && !sealed && f.seq == h.nextSeq:
		if len(f.body) < 2 || int(f.body[0])<<8|int(f.body[1]) != len(f.body)-2 {
			return false, errMessage
		}
		// The identity says nothing: the session was named by the hello.
		h.add(f.typ, f.seq, f.body)
		n := len(h.psk)
		premaster := append([]byte{byte(n >> 8), byte(n)}, make([]byte, n)...)
		premaster = append(append(premaster, byte(n>>8), byte(n)), h.psk...)
		seed := append(append([]byte(nil), h.random[:]...), h.serverRandom[:]...)
		h.master = h.suite.prf(h.kind, premaster, "master secret", seed, 48)
		h.nextSeq++
		h.state = hsKeyed
		return false, h.derive()
	case h.state == hsKeyed && f.typ == msgFinished && sealed:
		want := h.suite.finished(h.kind, h.master, "client finished", h.transcript)
		if subtle.ConstantTimeCompare(want, f.body) != 1 {
			return false, errVerify
		}
		h.state = hsDone
		if h.kind == PSK {
			h.add(f.typ, f.seq, f.body)
			h.flight = []piece{{typeCCS, 0, []byte{1}}, h.finish(2)}
		} else {
			h.flight = nil // the client's Finished was the last word
		}
		h.transcript, h.psk = nil, nil // the master secret stays for State
		return h.flight != nil, nil
	}
	return false, errOrder
}
