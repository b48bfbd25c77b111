package legacytls

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"reflect"
	"testing"
	"time"
)

// messages is one of each, for a version.
func messages(version uint16) map[byte][]byte {
	must := func(b []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return b
	}
	return map[byte][]byte{
		msgClientHello: must((&clientHello{Version: version, SessionID: make([]byte, 32), Suites: []uint16{rsaSuite, signalRenegotiation}, Compressions: []byte{0},
			Extensions: []extension{{extRenegotiation, []byte{0}}, {extSupportedVersions, []byte{2, 3, 3}}, {extServerName, []byte{0, 4, 0, 0, 1, 'x'}}}}).Marshal()),
		msgServerHello:        must((&serverHello{Version: version, SessionID: []byte{1}, Suite: rsaSuite, Extensions: []extension{{extRenegotiation, []byte{0}}}}).Marshal()),
		msgCertificate:        must((&certificate{Chain: [][]byte{{1, 2, 3}, {4}}}).Marshal()),
		msgCertificateRequest: must((&certificateRequest{Types: []byte{1}, Algorithms: []uint16{rsaSHA1}, Authorities: [][]byte{{0x30, 0}}}).Marshal(version)),
		msgClientKeyExchange:  must((&clientKeyExchange{Encrypted: []byte{1, 2, 3}}).Marshal()),
		msgCertificateVerify:  must((&certificateVerify{Algorithm: rsaSHA256, Signature: []byte{1, 2, 3}}).Marshal(version)),
	}
}

// codec reads a body and writes it again.
func codec(typ byte, version uint16, body []byte) (read any, again []byte, err error) {
	switch typ {
	case msgClientHello:
		var m clientHello
		if err := m.Unmarshal(body); err != nil {
			return nil, nil, err
		}
		m.newest()
		m.serverName()
		again, err = m.Marshal()
		return m, again, err
	case msgServerHello:
		var m serverHello
		if err := m.Unmarshal(body); err != nil {
			return nil, nil, err
		}
		again, err = m.Marshal()
		return m, again, err
	case msgCertificate:
		var m certificate
		if err := m.Unmarshal(body); err != nil {
			return nil, nil, err
		}
		again, err = m.Marshal()
		return m, again, err
	case msgCertificateRequest:
		var m certificateRequest
		if err := m.Unmarshal(version, body); err != nil {
			return nil, nil, err
		}
		again, err = m.Marshal(version)
		return m, again, err
	case msgClientKeyExchange:
		var m clientKeyExchange
		if err := m.Unmarshal(body); err != nil {
			return nil, nil, err
		}
		again, err = m.Marshal()
		return m, again, err
	case msgCertificateVerify:
		var m certificateVerify
		if err := m.Unmarshal(version, body); err != nil {
			return nil, nil, err
		}
		again, err = m.Marshal(version)
		return m, again, err
	}
	return nil, nil, errMessage
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12} {
		for typ, body := range messages(version) {
			read, again, err := codec(typ, version, body)
			if err != nil || !bytes.Equal(again, body) {
				t.Errorf("type %d: %v\n%x, want\n%x", typ, err, again, body)
			}
			// Whatever is missing at the end is missed, whatever is too much is too much.
			for n := range body {
				if got, _, err := codec(typ, version, body[:n]); err == nil && typ != msgClientHello && typ != msgServerHello {
					t.Errorf("type %d cut at %d: %+v", typ, n, got)
				}
			}
			if got, _, err := codec(typ, version, append(bytes.Clone(body), 0)); err == nil {
				t.Errorf("type %d with more: %+v, want %+v", typ, got, read)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12} {
		for typ, body := range messages(version) {
			f.Add(typ, version == tls.VersionTLS12, body)
		}
	}
	f.Fuzz(func(t *testing.T, typ byte, newer bool, body []byte) {
		version := uint16(tls.VersionTLS10)
		if newer {
			version = tls.VersionTLS12
		}
		read, again, err := codec(typ, version, body)
		if err != nil {
			return
		}
		twice, _, err := codec(typ, version, again)
		if err != nil || !reflect.DeepEqual(read, twice) {
			t.Fatalf("%v\n%+v\n%+v", err, read, twice)
		}
	})
}

// flights are what a client sends first, for the corpus.
func flights() [][]byte {
	var out [][]byte
	for _, fragment := range []int{0, 1, 50} {
		var raw bytes.Buffer
		p := &puppet{Conn: bufferConn{Writer: &raw}, fragment: fragment}
		if err := p.start(); err != nil {
			panic(err)
		}
		p.message(msgCertificate, messages(tls.VersionTLS10)[msgCertificate])
		p.message(msgClientKeyExchange, messages(tls.VersionTLS10)[msgClientKeyExchange])
		p.record(typeChangeCipher, []byte{1})
		out = append(out, raw.Bytes())
	}
	return append(out, []byte("GET / HTTP/1.1\r\n"), []byte{21, 3, 1, 0, 2, 1, 0})
}

// FuzzSniff: the replay is what was read, and the choice is that of the same bytes in one piece.
func FuzzSniff(f *testing.F) {
	for _, b := range flights() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		hello, replay, err := Sniff(readConn{Reader: bytes.NewReader(raw)})
		if err != nil {
			return
		}
		if again, err := io.ReadAll(readerOnly{replay}); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%x again, %v", again, err)
		}
		hello.NeedsLegacy()
	})
}

// FuzzServer feeds anything to a server. It may not succeed, nor hang, nor panic.
func FuzzServer(f *testing.F) {
	for _, b := range flights() {
		f.Add(b, false)
		f.Add(b, true)
	}
	sessions := NewSessions(10, time.Hour)
	f.Fuzz(func(t *testing.T, raw []byte, auth bool) {
		cfg := serverConfig()
		cfg.Sessions = sessions
		if auth {
			cfg.ClientAuth = tls.RequestClientCert
		}
		c := Server(readConn{Reader: bytes.NewReader(raw)}, cfg)
		if err := c.HandshakeContext(context.Background()); err == nil {
			t.Fatal("a handshake without keys")
		}
		if n, err := c.Read(make([]byte, 10)); n > 0 || err == nil {
			t.Fatal("read without a handshake")
		}
	})
}

// FuzzRecords feeds anything to an established connection: it may be ignored or refused, and never be taken for data.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{23, 3, 1, 0, 32})
	f.Add(append([]byte{23, 3, 1, 0, 48}, make([]byte, 48)...))
	f.Add(append([]byte{21, 3, 1, 0, 32}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys := keyBlock(tls.VersionTLS10, rsaSuite, make([]byte, masterSize), new([32]byte), new([32]byte))
		h := handshake{Conn: Server(readConn{Reader: bytes.NewReader(raw)}, serverConfig()), keys: keys}
		h.version = tls.VersionTLS10
		h.hashes = newTranscript()
		if err := h.armed(); err != nil {
			t.Fatal(err)
		}
		h.hs.done.Store(true)
		if n, err := h.Read(make([]byte, 100)); n > 0 || err == nil {
			t.Fatalf("%d bytes that nobody sealed, %v", n, err)
		}
	})
}
