package sdp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/media"
)

var server = netip.MustParseAddr("192.0.2.10")

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.ReplaceAll(string(b), "\n", "\r\n"))
}

func parse(t *testing.T, text string) *Session {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func negotiation() *Negotiation { return &Negotiation{id: 7} }

func local(codecs ...Codec) Local {
	return Local{Address: server, Port: 16384, Codecs: codecs, Events: true, Direction: media.Both}
}

func TestParseOfferOfACiscoPhone(t *testing.T) {
	s, err := Parse(read(t, "cp7861-offer.sdp"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Origin{"Cisco-SIPUA", 15384, 0, netip.MustParseAddr("192.0.2.51")}); s.Origin != want {
		t.Errorf("origin %+v", s.Origin)
	}
	m := s.Audio()
	if m == nil || m.Address(s) != netip.MustParseAddrPort("192.0.2.51:17904") || m.ControlAddress(s) != netip.MustParseAddrPort("192.0.2.51:17905") {
		t.Fatalf("audio %+v", m)
	}
	want := []Codec{Opus, G722, AMRWB0, AMRWB1, PCMU, PCMA, ILBC20, G729}
	if d := cmp.Diff(want, s.AudioCodecs()); d != "" {
		t.Error(d)
	}
	if m.Direction != media.Both || m.PTime != 0 || s.Held() || m.Secure() {
		t.Errorf("audio %+v", m)
	}
	if v, ok := m.Formats[0].Param("maxplaybackrate"); !ok || v != "16000" {
		t.Errorf("parameter %q, %v", v, ok)
	}
	if d := cmp.Diff([]Bandwidth{{"TIAS", 64000}}, m.Bandwidth); d != "" {
		t.Error(d)
	}
}

func TestAnswerToACiscoPhone(t *testing.T) {
	offer := parse(t, string(read(t, "cp7861-offer.sdp")))
	answer, agreed, err := negotiation().Answer(offer, local(DefaultCodecs()...))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(read(t, "cp7861-answer.sdp")), string(answer.Marshal())); d != "" {
		t.Error(d)
	}
	if agreed.Codec != G722 || agreed.Secure || agreed.Held {
		t.Errorf("agreed %+v", agreed)
	}
	want := []media.Format{{PT: 9, Name: "G722", Rate: 8000}, {PT: 101, Name: "telephone-event", Rate: 8000}}
	if d := cmp.Diff(want, agreed.Remote.Send); d != "" {
		t.Error(d)
	}
}

// audio builds a description with one audio stream from the given lines.
func audio(m string, lines ...string) string {
	return "v=0\r\no=- 1 1 IN IP4 192.0.2.51\r\ns=-\r\nc=IN IP4 192.0.2.51\r\nt=0 0\r\nm=audio " + m + "\r\n" + strings.Join(lines, "\r\n") + "\r\n"
}

func TestParseTolerates(t *testing.T) {
	for name, text := range map[string]string{
		"line order":            "s=-\r\nc=IN IP4 192.0.2.51\r\nb=AS:64\r\nv=0\r\nt=0 0\r\no=- 1 1 IN IP4 192.0.2.51\r\nm=audio 17904 RTP/AVP 0 9\r\na=sendrecv\r\nb=TIAS:64000\r\n",
		"no t=, no s=, no o=":   "v=0\r\nc=IN IP4 192.0.2.51\r\nm=audio 17904 RTP/AVP 0 9\r\n",
		"newlines only":         "v=0\nc=IN IP4 192.0.2.51\nm=audio 17904 RTP/AVP 0 9\n",
		"no last line end":      "v=0\r\nc=IN IP4 192.0.2.51\r\nm=audio 17904 RTP/AVP 0 9",
		"blanks and empties":    "v=0 \r\n\r\nc= IN IP4 192.0.2.51 \r\nm=audio 17904 RTP/AVP 0 9  \r\n",
		"over-long session id":  "v=0\r\no=- 123456789012345678901234567890 1 IN IP4 192.0.2.51\r\nc=IN IP4 192.0.2.51\r\nm=audio 17904 RTP/AVP 0 9\r\n",
		"session attribute":     "v=0\r\nc=IN IP4 192.0.2.51\r\na=X-nat:0\r\nm=audio 17904 RTP/AVP 0 9\r\na=sendrecv\r\n",
		"unknown codec":         audio("17904 RTP/AVP 0 120 9", "a=rtpmap:120 FUTURE/96000/7", "a=fmtp:120 x=y"),
		"fmtp of nothing":       audio("17904 RTP/AVP 0 9", "a=fmtp:97 profile-level-id=42", "a=imageattr:97 recv [x=640]"),
		"payload type twice":    audio("17904 RTP/AVP 0 9 0", "a=rtpmap:0 PCMU/8000"),
		"payload type too high": audio("17904 RTP/AVP 0 9 300"),
		"video first":           "v=0\r\nc=IN IP4 192.0.2.51\r\nm=video 5000 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\nm=audio 17904 RTP/AVP 0 9\r\n",
		"refused audio first":   "v=0\r\nc=IN IP4 192.0.2.51\r\nm=audio 0 RTP/AVP 18\r\nm=audio 17904 RTP/AVP 0 9\r\n",
		"bad bandwidth":         audio("17904 RTP/AVP 0 9", "b=CT:-1", "b=X"),
		"bad crypto":            audio("17904 RTP/AVP 0 9", "a=crypto:x", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:short"),
	} {
		t.Run(name, func(t *testing.T) {
			s := parse(t, text)
			m := s.Audio()
			if m == nil || m.Address(s) != netip.MustParseAddrPort("192.0.2.51:17904") || m.Direction != media.Both {
				t.Fatalf("audio %+v of %+v", m, s)
			}
			if d := cmp.Diff([]Codec{PCMU, G722}, s.AudioCodecs()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	many := "v=0\r\n" + strings.Repeat("m=audio 1 RTP/AVP 0\r\n", maxMedia+1)
	for name, text := range map[string]string{
		"empty": "", "text": "hello", "no version": "s=-\r\n", "version 1": "v=1\r\n", "port": "v=0\r\nm=audio 70000 RTP/AVP 0\r\n",
		"negative port": "v=0\r\nm=audio -1 RTP/AVP 0\r\n", "short medium": "v=0\r\nm=audio\r\n", "name as address": "v=0\r\nc=IN IP4 host.example.net\r\n",
		"too many media": many, "too long": "v=0\r\n" + strings.Repeat("a=x\r\n", maxBytes),
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrNotSDP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDirectionsOfHold(t *testing.T) {
	for _, tc := range []struct {
		name, address, offered, answered string
		held                             bool
	}{
		{"talk", "192.0.2.51", "sendrecv", "sendrecv", false},
		{"hold", "192.0.2.51", "sendonly", "recvonly", true},
		{"full hold", "192.0.2.51", "inactive", "inactive", true},
		{"listens only", "192.0.2.51", "recvonly", "sendonly", false},
		{"hold of old", "0.0.0.0", "sendrecv", "recvonly", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			offer := parse(t, "v=0\r\nc=IN IP4 "+tc.address+"\r\nm=audio 4000 RTP/AVP 0\r\na="+tc.offered+"\r\n")
			answer, agreed, err := negotiation().Answer(offer, local(PCMU))
			if err != nil {
				t.Fatal(err)
			}
			if got := directionName(answer.Media[0].Direction); got != tc.answered {
				t.Errorf("answered %s, want %s", got, tc.answered)
			}
			if agreed.Held != tc.held || offer.Held() != tc.held {
				t.Errorf("held %v, want %v", agreed.Held, tc.held)
			}
			if (tc.address == "0.0.0.0") == agreed.Remote.RTP.IsValid() {
				t.Errorf("media goes to %v", agreed.Remote.RTP)
			}
		})
	}
	t.Run("for the whole session", func(t *testing.T) {
		s := parse(t, "v=0\r\nc=IN IP4 192.0.2.51\r\na=inactive\r\nm=audio 4000 RTP/AVP 0\r\n")
		if !s.Held() {
			t.Error("not held")
		}
	})
}

func TestAnswerRefusesOtherStreams(t *testing.T) {
	offer := parse(t, audio("4000 RTP/AVP 0", "m=audio 4002 RTP/AVP 0", "c=IN IP6 2001:db8::1", "m=video 5000 RTP/AVP 97",
		"a=rtpmap:97 H264/90000", "m=application 5002 UDP/BFCP *"))
	answer, _, err := negotiation().Answer(offer, local(PCMU))
	if err != nil {
		t.Fatal(err)
	}
	text := string(answer.Marshal())
	for _, want := range []string{"m=audio 16384 RTP/AVP 0\r\n", "m=audio 0 RTP/AVP 0\r\n", "m=video 0 RTP/AVP 97\r\n", "m=application 0 UDP/BFCP *\r\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "H264") {
		t.Errorf("a refused stream is described:\n%s", text)
	}
}

func TestAnswerKeepsNumbers(t *testing.T) {
	offer := parse(t, audio("4000 RTP/AVP 107 110 96", "a=rtpmap:107 opus/48000/2", "a=fmtp:107 maxplaybackrate=48000",
		"a=rtpmap:110 iLBC/8000", "a=rtpmap:96 telephone-event/8000"))
	answer, agreed, err := negotiation().Answer(offer, local(ILBC30, Opus))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(answer.Marshal()); !strings.Contains(got, "RTP/AVP 110 96\r\n") || !strings.Contains(got, "a=fmtp:110 mode=30\r\n") {
		t.Error(got)
	}
	if agreed.Codec != ILBC30 {
		t.Errorf("codec %v", agreed.Codec)
	}
	if _, _, err := negotiation().Answer(offer, local(ILBC20)); !errors.Is(err, ErrNoCodec) {
		t.Errorf("iLBC of another frame length: %v", err)
	}
	answer, _, err = negotiation().Answer(offer, local(Opus))
	if err != nil || !strings.Contains(string(answer.Marshal()), "a=fmtp:107 maxplaybackrate=16000;") {
		t.Errorf("opus answered with %s, %v", answer.Marshal(), err)
	}
}

func TestVersionRisesWithChanges(t *testing.T) {
	n := negotiation()
	var versions []uint64
	for _, offered := range []string{"sendrecv", "sendrecv", "sendonly", "sendrecv"} {
		answer, _, err := n.Answer(parse(t, audio("4000 RTP/AVP 0", "a="+offered)), local(PCMU))
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, answer.Origin.Version)
	}
	refresh := n.Refresh()
	versions = append(versions, refresh.Origin.Version)
	if d := cmp.Diff([]uint64{1, 1, 2, 3, 3}, versions); d != "" {
		t.Error(d)
	}
	if _, err := n.Accept(parse(t, audio("4000 RTP/AVP 0"))); err != nil {
		t.Errorf("answer to the refresh: %v", err)
	}
}

func TestOfferAndAccept(t *testing.T) {
	n := negotiation()
	offer := n.Offer(local(G722, PCMU, Opus, ILBC20))
	if got := string(offer.Marshal()); !strings.Contains(got, "m=audio 16384 RTP/AVP 9 0 114 116 101\r\n") {
		t.Error(got)
	}
	if !n.Pending() {
		t.Error("not pending")
	}
	// The peer answers with several codecs and its own numbers.
	agreed, err := n.Accept(parse(t, audio("4000 RTP/AVP 0 120 96", "a=rtpmap:120 opus/48000/2", "a=rtpmap:96 telephone-event/8000", "a=ptime:30")))
	if err != nil {
		t.Fatal(err)
	}
	if agreed.Codec != PCMU || agreed.PTime != 30 || len(agreed.Codecs) != 2 {
		t.Errorf("agreed %+v", agreed)
	}
	send := []uint8{agreed.Remote.Send[0].PT, agreed.Remote.Send[1].PT, agreed.Remote.Send[2].PT}
	receive := []uint8{agreed.Remote.Receive[0].PT, agreed.Remote.Receive[1].PT, agreed.Remote.Receive[2].PT}
	if d := cmp.Diff([][]uint8{{0, 120, 96}, {0, 114, 101}}, [][]uint8{send, receive}); d != "" {
		t.Error(d)
	}
	// The next offer uses the numbers that the peer has named.
	if got := string(n.Offer(local(PCMU, Opus)).Marshal()); !strings.Contains(got, "RTP/AVP 0 120 96\r\n") {
		t.Error(got)
	}
	if _, err := n.Accept(parse(t, audio("4000 RTP/AVP 18"))); !errors.Is(err, ErrNoCodec) {
		t.Errorf("an answer without common codec: %v", err)
	}
	if got, ok := n.Agreed(); !ok || got.Codec != PCMU || n.Pending() {
		t.Errorf("after the failure %+v", got)
	}
	n.Offer(local(PCMU))
	if _, err := n.Accept(parse(t, audio("0 RTP/AVP 0"))); !errors.Is(err, ErrNoAudio) {
		t.Errorf("a refused stream: %v", err)
	}
	if _, err := n.Accept(parse(t, audio("4000 RTP/AVP 0"))); !errors.Is(err, ErrState) {
		t.Errorf("an answer to nothing: %v", err)
	}
}

const (
	key80  = "AES_CM_128_HMAC_SHA1_80 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"
	key32  = "AES_CM_128_HMAC_SHA1_32 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"
	keyGCM = "AEAD_AES_256_GCM inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKis="
)

func TestCryptoLines(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       media.Suite
	}{
		{"80", "1 " + key80, media.CM128SHA80},
		{"32", "7 " + key32, media.CM128SHA32},
		{"256 GCM", "1 " + keyGCM, media.AEAD256GCM},
		{"padding missing", "1 " + strings.TrimSuffix(keyGCM, "="), media.AEAD256GCM},
		{"lifetime", "1 " + key80 + "|2^20", media.CM128SHA80},
		{"window hint", "1 " + key80 + " WSH=128", media.CM128SHA80},
		{"parameter that may be ignored", "1 " + key80 + " -X=1", media.CM128SHA80},
		{"master key identifier", "1 " + key80 + "|2^20|1:4", media.NoSuite},
		{"unencrypted", "1 " + key80 + " UNENCRYPTED_SRTP", media.NoSuite},
		{"two keys", "1 " + key80 + ";inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd", media.NoSuite},
		{"F8", "1 F8_128_HMAC_SHA1_80 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd", media.NoSuite},
		{"draft GCM", "1 AEAD_AES_128_GCM_8 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw==", media.NoSuite},
		{"short key", "1 AES_CM_128_HMAC_SHA1_80 inline:AAEC", media.NoSuite},
		{"not base64", "1 AES_CM_128_HMAC_SHA1_80 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGx!!", media.NoSuite},
		{"bad tag", "x " + key80, media.NoSuite},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := parse(t, audio("4000 RTP/SAVP 0", "a=crypto:"+tc.line)).Audio()
			got := media.NoSuite
			if len(m.Crypto) > 0 {
				got = m.Crypto[0].Key.Suite()
			}
			if got != tc.want {
				t.Errorf("suite %v, want %v", got, tc.want)
			}
		})
	}
}

func TestEncryptedOffers(t *testing.T) {
	plain, sealed := audio("4000 RTP/AVP 0"), audio("4000 RTP/SAVP 0", "a=crypto:3 F8_128_HMAC_SHA1_80 inline:AAEC", "a=crypto:5 "+key32, "a=crypto:6 "+key80)
	optional := audio("4000 RTP/AVP 0", "a=crypto:1 "+key80)
	useless := audio("4000 RTP/SAVP 0", "a=crypto:3 F8_128_HMAC_SHA1_80 inline:AAEC")
	for _, tc := range []struct {
		name, offer string
		security    Security
		fallback    bool
		proto, tag  string
		err         error
	}{
		{"encrypted", sealed, Prefer, false, "RTP/SAVP", "a=crypto:5 AES_CM_128_HMAC_SHA1_32 inline:", nil},
		{"encrypted, only accepted", sealed, Accept, false, "RTP/SAVP", "a=crypto:5 ", nil},
		{"encrypted, never", sealed, Plain, false, "", "", ErrCrypto},
		{"encrypted, fall back", sealed, Plain, true, "RTP/AVP", "", nil},
		{"optional", optional, Prefer, false, "RTP/AVP", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:", nil},
		{"optional, never", optional, Plain, false, "RTP/AVP", "", nil},
		{"plain", plain, Prefer, false, "RTP/AVP", "", nil},
		{"plain, required", plain, Require, true, "", "", ErrInsecure},
		{"no usable suite", useless, Prefer, false, "", "", ErrCrypto},
		{"no usable suite, fall back", useless, Prefer, true, "RTP/AVP", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := local(PCMU)
			l.Security, l.Fallback = tc.security, tc.fallback
			answer, agreed, err := negotiation().Answer(parse(t, tc.offer), l)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err != nil {
				return
			}
			text := string(answer.Marshal())
			if !strings.Contains(text, " "+tc.proto+" 0") || (tc.tag != "") != strings.Contains(text, "a=crypto:") || !strings.Contains(text, tc.tag) {
				t.Errorf("answered\n%s", text)
			}
			if strings.Contains(text, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd") {
				t.Error("the peer's key came back")
			}
			if agreed.Secure != (tc.tag != "") || agreed.Secure == agreed.Remote.SendKey.Zero() || agreed.Secure == agreed.Remote.RecvKey.Zero() {
				t.Errorf("secure %v, keys %v %v", agreed.Secure, agreed.Remote.SendKey, agreed.Remote.RecvKey)
			}
		})
	}
}

func TestEncryptedAnswers(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		security     Security
		err          error
		secure       bool
	}{
		{"80", audio("4000 RTP/SAVP 0", "a=crypto:3 "+key80), Prefer, nil, true},
		{"32", audio("4000 RTP/SAVP 0", "a=crypto:4 "+key32), Require, nil, true},
		{"wrong tag", audio("4000 RTP/SAVP 0", "a=crypto:1 "+key80), Prefer, ErrCrypto, false},
		{"SAVP without a key", audio("4000 RTP/SAVP 0"), Prefer, ErrCrypto, false},
		{"fell back", audio("4000 RTP/AVP 0"), Prefer, nil, false},
		{"fell back, required", audio("4000 RTP/AVP 0"), Require, ErrInsecure, false},
		{"encrypted, not offered", audio("4000 RTP/AVP 0", "a=crypto:1 "+key80), Accept, ErrCrypto, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := negotiation()
			l := local(PCMU)
			l.Security = tc.security
			offer := n.Offer(l)
			if got := len(offer.Media[0].Crypto); (tc.security >= Prefer) != (got == 4) {
				t.Fatalf("%d crypto lines", got)
			}
			agreed, err := n.Accept(parse(t, tc.answer))
			if !errors.Is(err, tc.err) || agreed.Secure != tc.secure {
				t.Errorf("secure %v, error %v; want %v, %v", agreed.Secure, err, tc.secure, tc.err)
			}
		})
	}
}

// TestRekey: every new key of the peer is answered with a fresh one of ours, a refresh repeats it ("sip-calls" §3, §30).
func TestRekey(t *testing.T) {
	n := negotiation()
	l := local(PCMU)
	l.Security = Prefer
	var keys []media.Key
	for _, line := range []string{"1 " + key80, "1 " + key80, "2 " + key32} {
		_, agreed, err := n.Answer(parse(t, audio("4000 RTP/SAVP 0", "a=crypto:"+line)), l)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, agreed.Remote.SendKey)
	}
	if !keys[0].Equal(keys[1]) || keys[1].Equal(keys[2]) {
		t.Errorf("keys %v", keys)
	}
	a, b := n.Offer(l).Media[0].Crypto, n.Offer(l).Media[0].Crypto
	for i := range a {
		if a[i].Key.Equal(b[i].Key) {
			t.Errorf("suite %v has the same key in two offers", a[i].Key.Suite())
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	s := parse(t, audio("4000 RTP/SAVP 0", "a=crypto:1 "+key80))
	if text := fmt.Sprintf("%v %+v %#v", s, s, s.Audio().Crypto[0]); strings.Contains(text, "AAECAw") || strings.Contains(text, "0 1 2 3 4") {
		t.Error(text)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		audio("4000 RTP/SAVP 0 114", "a=crypto:1 "+key80, "a=rtpmap:114 opus/48000/2", "a=ptime:20", "a=rtcp:4001 IN IP4 192.0.2.1"),
		"v=0\nc=IN IP6 2001:db8::1\nm=audio 1 RTP/AVP 0\n", "v=0\nm=application 5002 UDP/BFCP *\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		text := s.Marshal()
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("own output %q: %v", text, err)
		}
		if second := again.Marshal(); string(second) != string(text) {
			t.Fatalf("%q became %q", text, second)
		}
		l := local(DefaultCodecs()...)
		l.Security = Prefer
		if answer, _, err := negotiation().Answer(s, l); err == nil {
			if _, err := Parse(answer.Marshal()); err != nil {
				t.Fatalf("own answer %q: %v", answer.Marshal(), err)
			}
		}
		n := negotiation()
		n.Offer(l)
		_, _ = n.Accept(s)
	})
}
