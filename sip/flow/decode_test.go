package flow

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
)

const via = "Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKx1\r\n"

// message builds a request with the usual headers; each change replaces a header or adds one.
func message(start string, changes ...string) string {
	headers := []string{
		strings.TrimSuffix(via, "\r\n"), "From: <sip:caller@example.net>;tag=323", "To: <sip:user@example.com>",
		"Call-ID: torture.1@192.0.2.15", "CSeq: 8 " + strings.Fields(start + " x x")[0], "Max-Forwards: 70", "Content-Length: 0",
	}
	body := ""
next:
	for _, c := range changes {
		if b, ok := strings.CutPrefix(c, "BODY "); ok {
			body = b
			continue
		}
		name, value, _ := strings.Cut(c, ":")
		for i, h := range headers {
			if strings.HasPrefix(h, name+":") {
				if headers[i] = c; value == "" {
					headers = append(headers[:i:i], headers[i+1:]...)
				}
				continue next
			}
		}
		headers = append(headers, c)
	}
	return start + "\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n" + body
}

// TestTorture covers the cases of RFC 4475 that a server can get wrong at this level, with messages of our own.
func TestTorture(t *testing.T) {
	p := newParser(65536)
	invite := "INVITE sip:user@example.com SIP/2.0"
	request := func(f func(r *sip.Request) string) func(m sip.Message) string {
		return func(m sip.Message) string { return f(m.(*sip.Request)) }
	}
	for _, tt := range []struct {
		name  string
		raw   string
		check func(m sip.Message) string // nil: must be refused
	}{
		{"3.1.1.1 folding, case, blanks, compact names", strings.Join([]string{
			invite, "TO :", "  sip:user@example.com ;   tag    = 1918181833n", "from   : \"J Rosenberg \\\\\\\"\"       <sip:j@example.com>", "  ;", "  tag = 98asjd8",
			"max-forwards:  68", "i: torture.2@192.0.2.15", "l: 0", "cseq: 9", "  INVITE", "v:  SIP  / 2.0 / TCP     192.0.2.2;", "  branch = z9hG4bK30239",
			"m:<sip:j@example.com;newparam=newvalue;secondparam ; q = 0.33", "", ""}, "\r\n"),
			request(func(r *sip.Request) string {
				return fmt.Sprint(r.CallID().Value(), " ", r.CSeq().SeqNo, " ", r.CSeq().MethodName)
			})},
		{"3.1.1.2 strange method", message("!interesting-Method0123456789_*+`.%indeed'~ sip:1@example.com SIP/2.0"),
			request(func(r *sip.Request) string { return strings.ToLower(string(r.Method))[:12] })},
		{"3.1.1.3 escapes in user parts", message("INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0"),
			request(func(r *sip.Request) string { return r.Recipient.User })},
		{"3.1.1.4 escaped nulls", message("REGISTER sip:example.com SIP/2.0", "To: sip:null-%00-null@example.com"),
			request(func(r *sip.Request) string { return r.To().Address.User })},
		{"3.1.1.5 percent that is no escape", message("RE%47IST%45R sip:registrar.example.com SIP/2.0"),
			request(func(r *sip.Request) string { return string(r.Method) })},
		{"3.1.1.6 no blank before <", message("OPTIONS sip:user@example.com SIP/2.0", "From: caller<sip:caller@example.com>;tag=323"),
			request(func(r *sip.Request) string { return r.From().DisplayName })},
		{"3.1.1.7 long values", message(invite, "From: <sip:"+strings.Repeat("long", 500)+"@example.com>;tag=12"),
			request(func(r *sip.Request) string { return fmt.Sprint(len(r.From().Address.User)) })},
		{"3.1.1.8 more than Content-Length in a datagram", message("REGISTER sip:example.com SIP/2.0") + "INVITE sip:joe@example.com SIP/2.0\r\n",
			request(func(r *sip.Request) string { return fmt.Sprint(len(r.Body())) })},
		{"3.1.1.9 semicolon in the user part", message("OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0"),
			request(func(r *sip.Request) string { return r.Recipient.User + " " + r.Recipient.Host })},
		{"3.1.1.10 unknown transports", message("OPTIONS sip:user@example.com SIP/2.0", "Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKkdjuw, SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf"),
			request(func(r *sip.Request) string { return r.Via().Transport + fmt.Sprint(len(r.GetHeaders("via"))) })},
		{"3.1.1.11 binary body", message("MESSAGE sip:kumiko@example.org SIP/2.0", "Content-Length: 5", "BODY \x00\xff\r\n\x80"),
			request(func(r *sip.Request) string { return fmt.Sprintf("%x", r.Body()) })},
		{"3.1.1.13 no reason phrase", message("SIP/2.0 100 ", "CSeq: 8 INVITE"),
			func(m sip.Message) string { return fmt.Sprint(m.(*sip.Response).StatusCode) }},
		{"3.3.4 unknown scheme in To and From", message("OPTIONS sip:user@example.com SIP/2.0", "To: <isbn:2983792873>", "From: <http://www.example.com>;tag=3"),
			request(func(r *sip.Request) string { return r.To().Address.Scheme })},
		{"3.2.1 branch of only the cookie", message("OPTIONS sip:user@example.com SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"),
			request(func(r *sip.Request) string { return "taken" })},
		{"3.3.12 strange Contact parameter", message("REGISTER sip:example.com SIP/2.0", `Contact: <sip:watson@example.com>;unknown="a;b,c"`),
			request(func(r *sip.Request) string { return r.GetHeaders("contact")[0].Value() })},
		{"Cisco Contact stays verbatim", message("REGISTER sip:10.20.0.5 SIP/2.0", `Contact: <sip:2001@10.20.4.31:51234;transport=tcp>;+sip.instance="<urn:uuid:0>";expires=0;cisco-keep-alive`),
			request(func(r *sip.Request) string { return r.GetHeaders("contact")[0].Value() })},

		{"3.1.2.1 separators without values", message(invite, "Via: SIP/2.0/UDP 192.0.2.15;;,;,,"), nil},
		{"3.1.2.2 Content-Length larger than the datagram", message(invite, "Content-Length: 9999", "BODY x"), nil},
		{"3.1.2.3 negative Content-Length", message(invite, "Content-Length: -999"), nil},
		{"3.1.2.4 CSeq beyond 2^31", message("REGISTER sip:example.com SIP/2.0", "CSeq: 36893488147419103232 REGISTER"), nil},
		{"3.1.2.5 CSeq beyond 2^31 in a response", message("SIP/2.0 503 x", "CSeq: 9292394834772304023312 OPTIONS"), nil},
		{"3.1.2.6 quote without end", message(invite, `To: "Mr. J. User <sip:j.user@example.com>`), nil},
		{"3.1.2.7 Request-URI in <>", message("INVITE <sip:user@example.com> SIP/2.0"), nil},
		{"3.1.2.8 blank in the Request-URI", message("INVITE sip:user@example.com; lr SIP/2.0"), nil},
		{"3.1.2.9 two blanks in the start line", message("INVITE  sip:user@example.com  SIP/2.0"), nil},
		{"3.1.2.16 CSeq of another method", message("OPTIONS sip:user@example.com SIP/2.0", "CSeq: 8 INVITE"), nil},
		{"3.1.2.17 CSeq of another unknown method", message("NEWMETHOD sip:user@example.com SIP/2.0", "CSeq: 34 INVITE"), nil},
		{"3.1.2.18 status of ten digits", message("SIP/2.0 4294967301 better not break the receiver", "CSeq: 8 INVITE"), nil},
		{"3.3.1 no Call-ID", message(invite, "Call-ID:"), nil},
		{"3.3.1 no From", message(invite, "From:"), nil},
		{"3.3.1 no Via", message(invite, "Via:"), nil},
		{"3.3.8 two Call-IDs", message(invite) + "", nil},
		{"a status of 99", message("SIP/2.0 99 x", "CSeq: 8 INVITE"), nil},
		{"not SIP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", nil},
		{"nothing", "", nil},
	} {
		raw := tt.raw
		if strings.HasPrefix(tt.name, "3.3.8") {
			raw = strings.Replace(raw, "Call-ID:", "Call-ID: another\r\nCall-ID:", 1)
		}
		t.Run(tt.name, func(t *testing.T) {
			m, err := decode(p, []byte(raw))
			if tt.check == nil {
				if err == nil {
					t.Errorf("taken:\n%s", m.String())
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			want := map[string]string{
				"3.1.1.1": "torture.2@192.0.2.15 9 INVITE", "3.1.1.2": "!interesting", "3.1.1.3": "sips%3Auser%40example.com",
				"3.1.1.4": "null-%00-null", "3.1.1.5": "RE%47IST%45R", "3.1.1.6": "caller", "3.1.1.7": "2000", "3.1.1.8": "0",
				"3.1.1.9": "user;par=u%40example.net example.com", "3.1.1.10": "UNKNOWN2", "3.1.1.11": "00ff0d0a80", "3.1.1.13": "100",
				"3.3.4": "isbn", "3.2.1": "taken", "3.3.12": `<sip:watson@example.com>;unknown="a;b,c"`,
				"Cisco": `<sip:2001@10.20.4.31:51234;transport=tcp>;+sip.instance="<urn:uuid:0>";expires=0;cisco-keep-alive`,
			}[strings.Fields(tt.name)[0]]
			if got := tt.check(m); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestBadRequest(t *testing.T) {
	for _, tt := range []struct{ name, raw, want string }{
		{"echoes what names the transaction", message("OPTIONS sip:a@b SIP/2.0", "CSeq: 8 INVITE"),
			"SIP/2.0 400 Bad Request\r\n" + via + "From: <sip:caller@example.net>;tag=323\r\nTo: <sip:user@example.com>;tag=malformed\r\n" +
				"Call-ID: torture.1@192.0.2.15\r\nCSeq: 8 INVITE\r\nContent-Length: 0\r\n\r\n"},
		{"a response is not answered", message("SIP/2.0 99 x"), ""},
		{"an ACK is not answered", message("ACK sip:a@b SIP/2.0", "CSeq: x"), ""},
		{"not without a Via", message("OPTIONS sip:a@b SIP/2.0", "Via:"), ""},
		{"a folded header is not echoed in part", message("OPTIONS sip:a@b SIP/2.0", "From: <sip:caller@example.net>\r\n ;tag=1"), ""},
		{"garbage", "\x00\x01\r\n\r\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(badRequest([]byte(tt.raw), 400, "Bad Request")); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// FuzzFrame checks that framing and decoding agree with themselves: what is cut off is a whole message, one byte less is not,
// and whatever is decoded can be written and read again.
func FuzzFrame(f *testing.F) {
	for _, s := range []string{
		message("INVITE sip:user@example.com SIP/2.0"), message("SIP/2.0 200 OK", "CSeq: 1 INVITE"),
		message("REGISTER sip:b SIP/2.0", "Content-Length: 3", "BODY abc"), "\r\n\r\n", "l: 0\r\n\r\n", "Content-Length: 5\r\n\r\nabc",
	} {
		f.Add([]byte(s))
	}
	p := newParser(4096)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := frame(b, 4096)
		if err != nil || n == 0 {
			badRequest(b, 400, "Bad Request")
			return
		}
		if n > len(b) || n > 4096 {
			t.Fatalf("frame of %d in %d bytes", n, len(b))
		}
		if k, err := frame(b[:n-1], 4096); err == nil && k == n {
			t.Fatal("a part passes for the whole")
		}
		m, err := decode(p, b[:n])
		if err != nil {
			badRequest(b[:n], 400, "Bad Request")
			return
		}
		again, err := decode(p, []byte(m.String()))
		if err != nil {
			return // sipgo writes some strange values differently; what matters is that nothing breaks
		}
		if !bytes.Equal(again.Body(), m.Body()) || again.CSeq().SeqNo != m.CSeq().SeqNo {
			t.Fatalf("written and read again it differs:\n%s\n%s", m, again)
		}
	})
}
