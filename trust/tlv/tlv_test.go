package tlv_test

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/vectors"
	"ringfence/trust/tlv"
)

// wantName is the list that a phone would have asked for.
func wantName(file string) string {
	if strings.Contains(file, "/CTL") {
		return tlv.CTLFile
	}
	return tlv.ITLFile
}

func open(t testing.TB, file string) *tlv.List {
	t.Helper()
	l, err := tlv.Parse(vectors.Read(t, file))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return l
}

func TestVectors(t *testing.T) {
	m := vectors.Load(t)
	if len(m.TLV) < 22 {
		t.Fatalf("only %d vectors", len(m.TLV))
	}
	for _, v := range m.TLV {
		t.Run(v.File, func(t *testing.T) {
			b := vectors.Read(t, v.File)
			l, err := tlv.Parse(b)
			if err == nil {
				err = l.Verify(wantName(v.File))
			}
			if v.Product == "reject" {
				if err == nil {
					t.Fatalf("accepted although %s", v.Why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Version.String(); got != v.SignerVersion {
				t.Errorf("version: got %s, want %s", got, v.SignerVersion)
			}
			signer, err := l.Signer()
			if want := vectors.Key(t, v.Signer).Cert; err != nil || !signer.Equal(want) {
				t.Errorf("signer: got %v (%v), want %v", signer.Subject, err, want.Subject)
			}

			list := tlv.List{Version: l.Version, Digest: vectors.Digest(t, v.Digest), Filename: v.Filename, Time: l.Time}
			if len(l.Entries) != len(v.Records) {
				t.Fatalf("%d records, want %d", len(l.Entries), len(v.Records))
			}
			for i, r := range v.Records {
				role, err := trust.ParseRole(r[0])
				if err != nil {
					t.Fatal(err)
				}
				cert := vectors.Key(t, r[1]).Cert
				if l.Entries[i].Role != role || !l.Entries[i].Cert.Equal(cert) {
					t.Errorf("record %d: got %s %s, want %s", i, l.Entries[i].Role, l.Entries[i].Cert.Subject, r)
				}
				list.Entries = append(list.Entries, trust.Entry{Cert: cert, Role: role})
			}
			rebuilt, err := tlv.Build(list, vectors.Key(t, v.Signer))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(rebuilt, b) {
				t.Errorf("rebuilt list differs from the file at byte %d", firstDifference(rebuilt, b))
			}
			for after, want := range v.Continuity {
				var old *tlv.List
				if file, ok := strings.CutPrefix(after, "after "); ok {
					old = open(t, file)
				}
				err := tlv.Continues(old, l)
				if (err == nil) != (want == "accept") {
					t.Errorf("%s: got %v, want %s", after, err, want)
				}
				if err != nil && !errors.Is(err, tlv.ErrContinuity) {
					t.Errorf("%s: got %v, want ErrContinuity", after, err)
				}
			}
		})
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestVerifyRefusesOtherName(t *testing.T) {
	if err := open(t, "tlv/CTLSEP001122334455.tlv").Verify(tlv.ITLFile); err == nil {
		t.Error("a CTL was taken for the ITL")
	}
}

// TestEveryByteCounts flips each byte of a list: none may pass for the original.
func TestEveryByteCounts(t *testing.T) {
	b := vectors.Read(t, "tlv/ITLFile-sast-only.tlv")
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x01
		if l, err := tlv.Parse(bad); err == nil && l.Verify(tlv.ITLFile) == nil {
			t.Errorf("byte %d changed from %#x to %#x and accepted", i, b[i], bad[i])
		}
	}
	for n := range b {
		if l, err := tlv.Parse(b[:n]); err == nil && l.Verify(tlv.ITLFile) == nil {
			t.Errorf("accepted although cut to %d bytes", n)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	sast, sast2, stranger := vectors.Key(t, "keys/sast-1.pem"), vectors.Key(t, "keys/sast-2.pem"), vectors.Key(t, "keys/stranger.pem")
	ccm, ec := vectors.Key(t, "keys/ccm.pem"), vectors.Key(t, "keys/tftp-ec256.pem")
	entry := func(s trust.Signer, r trust.Role) trust.Entry { return trust.Entry{Cert: s.Cert, Role: r} }
	good := tlv.List{Digest: trust.SHA1, Filename: tlv.ITLFile, Time: time.Unix(1e9, 0),
		Entries: []trust.Entry{entry(sast, trust.SAST), entry(ccm, trust.CCM)}}
	if _, err := tlv.Build(good, sast); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*tlv.List)
		signer trust.Signer
		want   error
	}{
		{"signer not in the list", func(*tlv.List) {}, stranger, tlv.ErrNoSigner},
		{"signer in another role", func(l *tlv.List) { l.Entries = append(l.Entries, entry(stranger, trust.CCM)) }, stranger, tlv.ErrNoSigner},
		{"three SAST", func(l *tlv.List) {
			l.Entries = append(l.Entries, entry(sast2, trust.SAST), entry(stranger, trust.SAST))
		}, sast, nil},
		{"EC in version 1.0", func(l *tlv.List) { l.Entries = append(l.Entries, entry(ec, trust.TFTP)) }, sast, nil},
		{"3072 bit signer", func(l *tlv.List) {}, vectors.Key(t, "keys/sast-3072.pem"), trust.ErrKeySize},
		{"EC signer", func(l *tlv.List) { l.Version = tlv.V11; l.Entries[0] = entry(ec, trust.SAST) }, ec, trust.ErrKeySize},
		{"unknown file name", func(l *tlv.List) { l.Filename = "ITLSEP001122334455.tlv" }, sast, nil},
		{"digest not in use", func(l *tlv.List) { l.Digest = 2 }, sast, nil},
		{"time before 1970", func(l *tlv.List) { l.Time = time.Time{} }, sast, nil},
		{"version 1.2", func(l *tlv.List) { l.Version = 2 }, sast, nil},
		{"64 KiB", func(l *tlv.List) {
			for range 60 {
				l.Entries = append(l.Entries, entry(ccm, trust.CCM))
			}
		}, sast, tlv.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := good
			l.Entries = append([]trust.Entry(nil), good.Entries...)
			c.change(&l)
			_, err := tlv.Build(l, c.signer)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestRecordMustRepeatItsCertificate signs, with a key of the list itself, a list whose record says something else than
// its certificate does.
func TestRecordMustRepeatItsCertificate(t *testing.T) {
	sast := vectors.Key(t, "keys/short-serial.pem")
	b, err := tlv.Build(tlv.List{Digest: trust.SHA1, Filename: tlv.ITLFile, Time: time.Unix(1e9, 0),
		Entries: []trust.Entry{{Cert: sast.Cert, Role: trust.SAST}}}, sast)
	if err != nil {
		t.Fatal(err)
	}
	key := sast.Key.Public().(*rsa.PublicKey).N.Bytes()
	for _, c := range []struct {
		name  string
		find  []byte
		nth   int // occurrence that is in the record
		fault string
	}{
		{"subject", []byte("CN=Test Short Serial,O=TEST ONLY\x00"), 2, "subject"},
		{"issuer", []byte("CN=Test Short Serial,O=TEST ONLY\x00"), 3, "issuer"},
		{"public key", key, 0, "public key"},
		{"signature", sast.Cert.Signature, 0, "signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad, at := bytes.Clone(b), 0
			for range c.nth + 1 {
				i := bytes.Index(bad[at:], c.find)
				if i < 0 {
					t.Fatal("not found")
				}
				at += i + 1
			}
			bad[at+3] ^= 1
			if _, err := tlv.Parse(bad); err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRoles(t *testing.T) {
	l := open(t, "tlv/ITLFile-v11-all-roles-sha512.tlv")
	got := l.Roles(vectors.Key(t, "keys/ccm.pem").Cert)
	if len(got) != 2 || got[0] != trust.CCM || got[1] != trust.CCMTFTP {
		t.Errorf("roles of ccm: %v", got)
	}
	if got := l.Roles(vectors.Key(t, "keys/stranger.pem").Cert); got != nil {
		t.Errorf("roles of a stranger: %v", got)
	}
	if s := l.FileSigners(); len(s) != 1 || !s[0].Equal(vectors.Key(t, "keys/ccm.pem").Cert) {
		t.Errorf("file signers: %d", len(s))
	}
	if s := l.FileServers(); len(s) != 1 || !s[0].Equal(vectors.Key(t, "keys/tftp-ec256.pem").Cert) {
		t.Errorf("file servers: %d", len(s))
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors.Load(f).TLV {
		f.Add(vectors.Read(f, v.File))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := tlv.Parse(b)
		if err != nil {
			return
		}
		if l.Verify(tlv.ITLFile) == nil {
			_ = tlv.Continues(l, l)
		}
	})
}

func BenchmarkBuildITL(b *testing.B) {
	sast := vectors.Key(b, "keys/sast-1.pem")
	list := tlv.List{Version: tlv.V11, Digest: trust.SHA512, Filename: tlv.ITLFile, Time: time.Unix(1e9, 0)}
	for _, e := range []struct {
		key  string
		role trust.Role
	}{
		{"sast-1", trust.SAST}, {"sast-2", trust.SAST}, {"ccm", trust.CCM}, {"tftp", trust.TFTP}, {"tftp-ec256", trust.TFTP},
		{"capf", trust.CAPF}, {"app", trust.AppServer}, {"tvs", trust.TVS},
	} {
		list.Entries = append(list.Entries, trust.Entry{Cert: vectors.Key(b, "keys/"+e.key+".pem").Cert, Role: e.role})
	}
	for b.Loop() {
		if _, err := tlv.Build(list, sast); err != nil {
			b.Fatal(err)
		}
	}
}
