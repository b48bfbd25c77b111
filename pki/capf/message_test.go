package capf

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// recorded is one line of a recorded session.
type recorded struct {
	From    string `json:"from"`
	Message string `json:"message"`
	Session uint32 `json:"session_id"`
	Hex     string `json:"hex"`
}

func (r recorded) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(r.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func recording(t testing.TB, name string) []recorded {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func recordings(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "vectors", "*.json"))
	if err != nil || len(paths) != 49 {
		t.Fatalf("%d recordings, %v; want 49", len(paths), err)
	}
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	return paths
}

// Every recorded message that is well formed is written again byte for byte; the others are refused for the right reason.
func TestRecordedMessages(t *testing.T) {
	refused := map[string]string{
		"fault-bad-proto.json":       "protocol id 0x56",
		"fault-bad-command.json":     "command 200",
		"fault-no-device.json":       "element 13 is missing",
		"fault-overrun-element.json": "runs past the message",
		"fault-zero-reason.json":     "element 1 twice",
		"fault-huge-length.json":     "length 65535",
		"fault-short-body.json":      "bytes follow the header",
		"fault-empty-header.json":    "header of 2 bytes",
	}
	messages := 0
	for _, name := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			seen := ""
			for _, r := range recording(t, name) {
				if r.Hex == "" {
					continue
				}
				b := r.bytes(t)
				var m Message
				if err := m.Unmarshal(b); err != nil {
					if !errors.Is(err, ErrMalformed) {
						t.Errorf("%s: %v does not wrap ErrMalformed", r.Message, err)
					}
					seen = err.Error()
					continue
				}
				messages++
				if m.Session != r.Session {
					t.Errorf("%s: session %d, want %d", r.Message, m.Session, r.Session)
				}
				got, err := m.Marshal()
				if err != nil {
					t.Fatalf("%s: %v", r.Message, err)
				}
				if name == "fault-unknown-element.json" && r.Message == "AUTH_RESPONSE" {
					continue // the unknown element is ignored, and so is not written again
				}
				if !bytes.Equal(got, b) {
					t.Errorf("%s:\n got %x\nwant %x", r.Message, got, b)
				}
			}
			if want := refused[name]; (want == "") != (seen == "") || !strings.Contains(seen, want) {
				t.Errorf("refused with %q, want %q", seen, want)
			}
		})
	}
	if messages != 239 {
		t.Errorf("%d messages were compared, want 239", messages)
	}
}

func TestRoundTrip(t *testing.T) {
	cert := []byte{0x30, 0x03, 1, 2, 3}
	for _, body := range []Body{
		&AuthRequest{Version: 3},
		&AuthRequest{Version: 3, AuthType: 4},
		&AuthResponse{Reason: ReasonDone, Version: 3, DeviceName: "SEP001122334455"},
		&AuthResponse{Reason: ReasonDone, Type: TypeMIC, Certificate: cert, SignedData: []byte{1}, Version: 2, Password: "1234",
			DeviceName: "SEP001122334455", SUDI: []byte{0, 0, 0}, SHA2SignedData: []byte{3, 0, 0}},
		&KeyGenerateRequest{Key: RSA2048}, &KeyGenerateRequest{Key: RSA3072}, &KeyGenerateRequest{Key: RSA4096},
		&KeyGenerateRequest{Key: RSA2048, SizeOnly: true},
		&KeyGenerateRequest{Key: P256}, &KeyGenerateRequest{Key: P384}, &KeyGenerateRequest{Key: P521},
		&KeyGenerateResponse{PublicKey: []byte{0x30, 0}}, &KeyGenerateResponse{Reason: ReasonRefused},
		&StoreRequest{Type: TypeLSC, Certificate: cert},
		&StoreResponse{Reason: ReasonDone}, &StoreResponse{Reason: ReasonRefused},
		&FetchRequest{}, &FetchResponse{Reason: ReasonDone, Type: TypeLSC, Certificate: cert}, &FetchResponse{Reason: ReasonRefused},
		&DeleteRequest{}, &DeleteResponse{Reason: ReasonDone},
		&EndSession{Reason: ReasonUnknown}, &RetryLater{}, &InProgress{},
	} {
		in := Message{Session: 0xfedcba98, Body: body}
		b, err := in.Marshal()
		if err != nil {
			t.Errorf("%T: %v", body, err)
			continue
		}
		var out Message
		if err := out.Unmarshal(b); err != nil {
			t.Errorf("%T: %v", body, err)
			continue
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%T:\n got %+v\nwant %+v", body, out.Body, in.Body)
		}
		for i := range b {
			if err := new(Message).Unmarshal(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%T cut to %d bytes: %v", body, i, err)
			}
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, body := range map[string]Body{
		"NUL in the password":    &AuthResponse{Password: "1\x002", DeviceName: "SEP001122334455"},
		"name that is not UTF-8": &AuthResponse{DeviceName: "SEP\xff"},
		"unknown key kind":       &KeyGenerateRequest{Key: "rsa512"},
		"EC in version 2":        &KeyGenerateRequest{Key: P256, SizeOnly: true},
		"too long":               &KeyGenerateResponse{PublicKey: make([]byte, maxBody)},
		"much too long":          &KeyGenerateResponse{PublicKey: make([]byte, 70000)},
	} {
		if b, err := (Message{Session: 1, Body: body}).Marshal(); err == nil {
			t.Errorf("%s: wrote %d bytes", name, len(b))
		}
	}
}

// build makes a message of raw elements.
func build(cmd Command, elements ...[]byte) []byte {
	body := bytes.Join(elements, nil)
	return append([]byte{0x55, byte(cmd), 0, 0, 0, 1, byte(len(body) >> 8), byte(len(body))}, body...)
}

func element(tag byte, value ...byte) []byte {
	return append([]byte{tag, byte(len(value) >> 8), byte(len(value))}, value...)
}

func TestStrictElements(t *testing.T) {
	reason, ver := element(tagReason, 1), element(tagVersion, 3)
	name := element(tagDeviceName, []byte("SEP001122334455\x00")...)
	pw := element(tagPassword, 0)
	cert := element(tagCertificate, wrapCertificate(TypeLSC, []byte{0x30, 0})...)
	for _, tc := range []struct {
		name string
		b    []byte
		want string // empty: accepted
	}{
		{"plain", build(cmdAuthResponse, reason, ver, pw, name), ""},
		{"any order", build(cmdAuthResponse, name, pw, ver, reason), ""},
		{"as a soft client: no password", build(cmdAuthResponse, ver, name, reason), ""},
		{"unknown tag", build(cmdAuthResponse, reason, ver, pw, name, element(99, 'x', 'x')), ""},
		{"unknown tag twice", build(cmdAuthResponse, reason, ver, pw, name, element(99), element(99)), "element 99 twice"},
		{"explanation", build(cmdAuthResponse, reason, ver, pw, name, element(2, []byte("text\x00")...)), ""},
		{"device twice", build(cmdAuthResponse, reason, ver, pw, name, name), "element 13 twice"},
		{"reason of two bytes", build(cmdAuthResponse, element(tagReason, 1, 1), ver, pw, name), "instead of 1"},
		{"empty version", build(cmdAuthResponse, reason, element(tagVersion), pw, name), "instead of 1"},
		{"name without NUL", build(cmdAuthResponse, reason, ver, pw, element(tagDeviceName, 'S')), "does not end in a NUL"},
		{"name with two", build(cmdAuthResponse, reason, ver, pw, element(tagDeviceName, 'S', 0, 0)), "holds a NUL"},
		{"empty name element", build(cmdAuthResponse, reason, ver, pw, element(tagDeviceName)), "does not end in a NUL"},
		{"name that is not UTF-8", build(cmdAuthResponse, reason, ver, pw, element(tagDeviceName, 0xff, 0)), "not UTF-8"},
		{"element header cut", build(cmdAuthResponse, reason, ver, pw, name, []byte{1, 0}), "cut short"},
		{"element past the end", build(cmdAuthResponse, reason, ver, pw, name, []byte{99, 0, 1}), "runs past"},
		{"certificate", build(cmdAuthResponse, reason, ver, pw, name, cert), ""},
		{"certificate without wrapper", build(cmdAuthResponse, reason, ver, pw, name, element(tagCertificate, 0x30, 0)), "wrapper"},
		{"wrapper of another length", build(cmdAuthResponse, reason, ver, pw, name, element(tagCertificate, 1, 0, 9, 0, 1, 0x30, 0)), "says otherwise"},
		{"wrapper of type 3", build(cmdAuthResponse, reason, ver, pw, name, element(tagCertificate, 1, 0, 4, 0, 3, 0x30, 0)), "certificate type 3"},
		{"key size of one byte", build(cmdKeyGenerateRequest, element(tagKeySize, 8)), "instead of 2"},
		{"RSA 512", build(cmdKeyGenerateRequest, element(tagKeySize, 2, 0), element(tagKeyType, 0)), "512 bits"},
		{"curve 3", build(cmdKeyGenerateRequest, element(tagKeyType, 1), element(tagCurve, 3)), "curve 3"},
		{"key type 2", build(cmdKeyGenerateRequest, element(tagKeyType, 2), element(tagCurve, 0)), "key type 2"},
		{"empty public key", build(cmdKeyGenerateResponse, element(tagPublicKey)), "missing or empty"},
		{"neither key nor reason", build(cmdKeyGenerateResponse), "element 1 is missing"},
		{"fetched nothing", build(cmdFetchResponse, reason), "without a certificate"},
		{"command 5", build(5, reason), "command 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := new(Message).Unmarshal(tc.b)
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
			} else if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", err, tc.want)
			}
		})
	}
}

func TestReadMessage(t *testing.T) {
	one := build(cmdAuthResponse, element(tagReason, 1), element(tagVersion, 3), element(tagDeviceName, 'S', 0))
	two := build(cmdInProgress)
	r := iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(one), two...)))
	for _, want := range []Command{cmdAuthResponse, cmdInProgress} {
		m, err := ReadMessage(r)
		if err != nil || m.Body.command() != want {
			t.Fatalf("got %T, %v; want command %d", m.Body, err, want)
		}
	}
	if _, err := ReadMessage(r); err != io.EOF {
		t.Errorf("at the end: got %v, want %v", err, io.EOF)
	}
	for i := 1; i < len(one); i++ {
		if _, err := ReadMessage(bytes.NewReader(one[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d bytes: got %v, want %v", i, err, io.ErrUnexpectedEOF)
		}
	}
	// A length that is too long is refused before anything is allocated or waited for.
	if _, err := ReadMessage(bytes.NewReader([]byte{0x55, 2, 0, 0, 0, 1, 0xff, 0xff})); !errors.Is(err, ErrMalformed) {
		t.Errorf("length 65535: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	for _, name := range recordings(f) {
		for _, r := range recording(f, name) {
			if r.Hex != "" {
				f.Add(r.bytes(f))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if err := m.Unmarshal(b); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v does not wrap ErrMalformed", err)
			}
			return
		}
		again, err := m.Marshal()
		if err != nil {
			t.Fatalf("read, but not written: %v", err)
		}
		var m2 Message
		if err := m2.Unmarshal(again); err != nil {
			t.Fatalf("written, but not read: %v", err)
		}
		if third, err := m2.Marshal(); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("not stable: %v\n%x\n%x", err, again, third)
		}
	})
}

func FuzzProof(f *testing.F) {
	for _, name := range []string{"auth-lsc-rsa-with-mic.json", "auth-lsc-ec-with-mic.json", "auth-mic-only.json", "auth-sudi-bad.json"} {
		var m Message
		if err := m.Unmarshal(recording(f, name)[1].bytes(f)); err != nil {
			f.Fatal(err)
		}
		a := m.Body.(*AuthResponse)
		f.Add(a.DeviceName, a.Certificate, a.SignedData, a.SHA2SignedData, a.SUDI, m.Session)
	}
	f.Fuzz(func(t *testing.T, device string, der, signed, sha2, sudi []byte, session uint32) {
		m := &AuthResponse{DeviceName: device, Certificate: der, SignedData: signed, SHA2SignedData: sha2, SUDI: sudi}
		m.verifyDevice()
		m.verifySession(session)
	})
}
