package legacytls

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"testing"
	"time"
)

// BenchmarkHandshake is client and server together; BenchmarkReference is what a full one cannot do without, one operation with the
// server's RSA key, in the same run.
func BenchmarkHandshake(b *testing.B) {
	cfg := serverConfig()
	cfg.Sessions = NewSessions(10, time.Hour)
	run := func(resume *session) *puppet {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- Server(ours, cfg).HandshakeContext(b.Context()) }()
		p := &puppet{Conn: theirs, t: b, resume: resume}
		if err := p.handshake(); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		ours.Close()
		theirs.Close()
		return p
	}
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			run(nil)
		}
	})
	b.Run("resumed", func(b *testing.B) {
		ses := run(nil).session()
		b.ResetTimer()
		for b.Loop() {
			run(ses)
		}
	})
}

func BenchmarkReference(b *testing.B) {
	key := serverIdentity().PrivateKey.(*rsa.PrivateKey)
	for b.Loop() {
		if _, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, make([]byte, 32)); err != nil {
			b.Fatal(err)
		}
	}
}
