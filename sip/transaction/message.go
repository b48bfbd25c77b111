package transaction

import (
	"encoding/hex"
	"iter"
	"math/rand/v2"
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// random returns n random bytes as hexadecimal text. The generator is seeded by the kernel and not predictable; these names
// keep messages apart, they protect nothing.
func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b)
}

// NewTag returns a tag for a From or To header.
func NewTag() string { return random(8) }

// NewCallID returns a Call-ID for a request sent over f.
func NewCallID(f flow.Flow) string { return random(12) + "@" + f.Local().Addr().Unmap().String() }

// NewBranch returns a branch for a Via header.
func NewBranch() string { return sip.RFC3261BranchMagicCookie + random(8) }

// Response builds an answer to req: its Vias, From, To with the given tag unless it has one (none for 100), Call-ID and CSeq,
// and for answers that make a dialog its Record-Routes (RFC 3261 §8.2.6). An empty reason takes the usual phrase.
func Response(req *sip.Request, code int, reason, tag string) *sip.Response {
	if reason == "" {
		reason = Phrase(code)
	}
	res := sip.NewResponse(code, reason)
	for _, h := range req.Headers() {
		if v, ok := h.(*sip.ViaHeader); ok {
			res.AppendHeader(v) // not changed any more by either side
		}
	}
	if code > 100 && code < 300 && req.Method != sip.REGISTER {
		sip.CopyHeaders("Record-Route", req, res)
	}
	res.AppendHeader(sip.HeaderClone(req.From()))
	to := sip.HeaderClone(req.To()).(*sip.ToHeader)
	if code > 100 {
		if _, ok := to.Params.Get("tag"); !ok {
			to.Params.Add("tag", tag)
		}
	}
	res.AppendHeader(to)
	res.AppendHeader(sip.HeaderClone(req.CallID()))
	res.AppendHeader(sip.HeaderClone(req.CSeq()))
	return res
}

// Headers yields the headers of m with one of the names, in any case. (sipgo's GetHeaders makes a lower-case copy of every
// header's name each time.)
func Headers(m sip.Message, names ...string) iter.Seq[sip.Header] {
	var all []sip.Header
	switch m := m.(type) {
	case *sip.Request:
		all = m.Headers()
	case *sip.Response:
		all = m.Headers()
	}
	return func(yield func(sip.Header) bool) {
		for _, h := range all {
			n := h.Name()
			for _, name := range names {
				if len(n) == len(name) && strings.EqualFold(n, name) {
					if !yield(h) {
						return
					}
					break
				}
			}
		}
	}
}

// Header returns the value of the first header with one of the names, or "".
func Header(m sip.Message, names ...string) string {
	for h := range Headers(m, names...) {
		return h.Value()
	}
	return ""
}

// Has tells whether m has a header.
func Has(m sip.Message, name string) bool {
	for range Headers(m, name) {
		return true
	}
	return false
}

// SetBody gives m a body and its content type.
func SetBody(m sip.Message, contentType string, body []byte) {
	ct := sip.ContentTypeHeader(contentType)
	m.AppendHeader(&ct)
	m.SetBody(body)
}

// VerbatimURI returns a Uri that prints exactly as text. Where sipgo's reading of it would print otherwise (an empty
// parameter value, a scheme in capitals) the parts are not available: phones compare a Request-URI with their Contact letter
// by letter (sip-overview.md §3).
func VerbatimURI(text string) (sip.Uri, error) {
	var u sip.Uri
	if err := sip.ParseUri(text, &u); err != nil {
		return sip.Uri{}, err
	}
	if u.String() == text {
		return u, nil
	}
	scheme, rest, _ := strings.Cut(text, ":")
	return sip.Uri{Scheme: scheme, Host: rest}, nil
}

// Phrase is the reason phrase of a status code.
func Phrase(code int) string {
	if p, ok := phrases[code]; ok {
		return p
	}
	switch code / 100 {
	case 1:
		return "Progress"
	case 2:
		return "OK"
	case 3:
		return "Redirection"
	case 4:
		return "Client Error"
	case 5:
		return "Server Error"
	}
	return "Failure"
}

var phrases = map[int]string{
	100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress",
	200: "OK", 202: "Accepted",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily", 305: "Use Proxy",
	400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
	407: "Proxy Authentication Required", 408: "Request Timeout", 410: "Gone", 412: "Conditional Request Failed",
	413: "Request Entity Too Large", 414: "Request-URI Too Long", 415: "Unsupported Media Type", 416: "Unsupported URI Scheme",
	420: "Bad Extension", 421: "Extension Required", 422: "Session Interval Too Small", 423: "Interval Too Brief",
	480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops",
	484: "Address Incomplete", 485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here",
	489: "Bad Event", 491: "Request Pending", 493: "Undecipherable",
	500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Server Time-out",
	505: "Version Not Supported", 513: "Message Too Large",
	600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable",
}
