package phone

import (
	"strings"
	"testing"
)

func TestParseSDP(t *testing.T) {
	d, err := parseSDP([]byte("v=0\r\no=- 4711 3 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\na=sendonly\r\n" +
		"m=audio 30040 RTP/SAVP 9 0 101 200\r\nb=TIAS:64000\r\na=crypto:1 AEAD_AES_256_GCM inline:" + strings.Repeat("QUFB", 14) + "QUE\r\n" +
		"a=crypto:2 F8_128_HMAC_SHA1_80 inline:abc\r\na=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:" + strings.Repeat("QUFB", 10) + "|2^20|1:4\r\n" +
		"a=rtpmap:101 telephone-event/8000\r\na=rtpmap:97 not-listed/8000\r\na=ptime:20\r\n" +
		"m=video 0 RTP/AVP 126\r\nc=IN IP4 192.0.2.11\r\na=inactive\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := d.media[0]
	codecs, dtmf := audioCodecs(a)
	if d.version != "3" || a.port != 30040 || a.addr.String() != "192.0.2.10" || !a.held() || a.ptime != 20 || dtmf != 101 ||
		len(codecs) != 2 || len(a.crypto) != 2 || a.crypto[0].suite != suiteGCM256 || a.crypto[1].tag != 3 || a.rtpmap[97] != "" {
		t.Errorf("%+v", a)
	}
	if v := d.media[1]; v.addr.String() != "192.0.2.11" || v.direction != "inactive" || v.port != 0 {
		t.Errorf("%+v", v)
	}
	for _, bad := range []string{"", "hello", "v=1\r\n", "v=0\r\no=- 1 1 IN IP4\r\nm=audio 1 RTP/AVP 0\r\n", "v=0\r\no=- 1 1 IN IP4 h\r\n",
		"v=0\r\nm=audio 1 RTP/AVP 0\r\n", "v=0\r\no=- 1 1 IN IP4 h\r\nm=audio 99999 RTP/AVP 0\r\n", "v=0\r\no=- 1 1 IN IP4 h\r\nc=IN IP4 name\r\nm=audio 1 RTP/AVP 0\r\n"} {
		if _, err := parseSDP([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

// What the phone writes it can read.
func TestOfferRoundTrip(t *testing.T) {
	o := offered{addr: loopback, port: 17904, session: 15384, version: 2, secure: true, codecs: codecs7900, dtmf: 101,
		crypto: []cryptoLine{newCrypto(1, suite80), newCrypto(2, suite32)}, direction: "sendonly", rejected: []mediaDesc{{kind: "video", proto: "RTP/AVP", formats: []int{126}}}}
	d, err := parseSDP([]byte(o.String()))
	if err != nil {
		t.Fatal(err)
	}
	a := d.media[0]
	if len(a.formats) != len(codecs7900)+1 || string(a.crypto[1].key) != string(o.crypto[1].key) || a.direction != "sendonly" || d.media[1].port != 0 {
		t.Errorf("%s\n%+v", o, d)
	}
}

func TestAnswerDirection(t *testing.T) {
	for _, tc := range []struct {
		offer   string
		holding bool
		want    string
	}{{"sendrecv", false, "sendrecv"}, {"sendonly", false, "recvonly"}, {"recvonly", false, "sendonly"}, {"inactive", false, "inactive"},
		{"sendrecv", true, "sendonly"}, {"sendonly", true, "inactive"}, {"recvonly", true, "sendonly"}} {
		if got := answerDirection(tc.offer, tc.holding); got != tc.want {
			t.Errorf("%s, holding %v: %s, want %s", tc.offer, tc.holding, got, tc.want)
		}
	}
}

func FuzzSDP(f *testing.F) {
	f.Add([]byte("v=0\r\no=- 1 1 IN IP4 h\r\nc=IN IP4 192.0.2.1\r\nm=audio 1 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA\r\n"))
	f.Add([]byte("v=0\no=a b c d e f\nm=audio 0 RTP/SAVP 127\na=ptime:x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseSDP(b)
		if err != nil {
			return
		}
		for _, m := range d.media {
			audioCodecs(m)
			for _, c := range m.crypto {
				if _, err := c.context(); err != nil {
					t.Fatalf("a crypto line was read that has no context: %v", err)
				}
			}
		}
	})
}
