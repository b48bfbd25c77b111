package cisco

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
)

// Part is one part of a body.
type Part struct {
	Type string
	Body []byte
}

// boundary is the word that server and phones use (sip-overview.md §6.2). Our XML cannot contain it at the start of a line.
const boundary = "uniqueBoundary"

// MaxParts is how many parts a phone accepts in one REFER (combine max).
const MaxParts = 6

// Join makes one body of parts; a single part stays as it is.
//
//	--uniqueBoundary CRLF Content-Type: TYPE CRLF CRLF BODY CRLF ... --uniqueBoundary-- CRLF
func Join(parts ...Part) (contentType string, body []byte) {
	if len(parts) == 1 {
		return parts[0].Type, parts[0].Body
	}
	var b bytes.Buffer
	for _, p := range parts {
		b.WriteString("--" + boundary + "\r\nContent-Type: " + p.Type + "\r\n\r\n")
		b.Write(p.Body)
		b.WriteString("\r\n")
	}
	b.WriteString("--" + boundary + "--\r\n")
	return TypeMultipart + ";boundary=" + boundary, b.Bytes()
}

// Split takes a body apart. A body that is not multipart is one part. The boundary may be quoted or not, with blanks around.
func Split(contentType string, body []byte) ([]Part, error) {
	if len(body) > maxDocument {
		return nil, fmt.Errorf("body longer than %d bytes", maxDocument)
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind, _, _ = strings.Cut(contentType, ";")
		kind = strings.ToLower(strings.TrimSpace(kind))
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return []Part{{Type: kind, Body: body}}, nil
	}
	word := params["boundary"]
	if word == "" {
		return nil, errors.New("multipart without boundary")
	}
	var parts []Part
	mark := []byte("--" + word)
	rest, ok := body, false
	if rest, ok = afterMark(rest, mark); !ok {
		return nil, errors.New("multipart without first boundary")
	}
	for !bytes.HasPrefix(rest, []byte("--")) {
		end, next, found := beforeMark(rest, mark)
		if !found {
			return nil, errors.New("multipart without last boundary")
		}
		if len(parts) == 2*MaxParts {
			return nil, errors.New("too many parts")
		}
		parts = append(parts, part(end))
		rest = next
	}
	if len(parts) == 0 {
		return nil, errors.New("multipart without part")
	}
	return parts, nil
}

// afterMark returns what follows the first boundary line.
func afterMark(b, mark []byte) ([]byte, bool) {
	for at := 0; ; {
		i := bytes.Index(b[at:], mark)
		if i < 0 {
			return nil, false
		}
		if i += at; i == 0 || b[i-1] == '\n' {
			return b[i+len(mark):], true
		}
		at = i + 1
	}
}

// beforeMark returns what comes before the next boundary line, without the line end that belongs to it, and what follows.
func beforeMark(b, mark []byte) (before, after []byte, ok bool) {
	for at := 0; ; {
		i := bytes.Index(b[at:], mark)
		if i < 0 {
			return nil, nil, false
		}
		if i += at; i > 0 && b[i-1] == '\n' {
			before = b[:i-1]
			return bytes.TrimSuffix(before, []byte("\r")), b[i+len(mark):], true
		}
		at = i + 1
	}
}

// part reads the headers of a part. What stands on the rest of the boundary line is skipped.
func part(b []byte) Part {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	p := Part{Type: "text/plain"}
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(bytes.TrimSpace(name)), "Content-Type") {
			kind, _, _ := strings.Cut(string(value), ";")
			p.Type = strings.ToLower(strings.TrimSpace(kind))
		}
	}
	p.Body = b
	return p
}

// Requests reads all remotecc requests of a body, with the text of a TypeCM part if there is one. The first part must be a
// remotecc request (sip-calls.md §1.1 rule 3).
func Requests(contentType string, body []byte) (requests []Request, cm string, err error) {
	parts, err := Split(contentType, body)
	if err != nil {
		return nil, "", err
	}
	for i, p := range parts {
		switch p.Type {
		case TypeRequest:
			var r Request
			if err := r.Unmarshal(p.Body); err != nil {
				return nil, "", err
			}
			requests = append(requests, r)
		case TypeCM:
			cm = strings.TrimSpace(string(p.Body))
		}
		if i == 0 && len(requests) == 0 {
			return nil, "", fmt.Errorf("first part is %.60q", p.Type)
		}
	}
	return requests, cm, nil
}
