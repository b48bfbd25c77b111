package provision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TFTP opcodes (RFC 1350 §5, RFC 2347).
const (
	opRead   = 1
	opWrite  = 2
	opData   = 3
	opAck    = 4
	opError  = 5
	opOptAck = 6
)

// TFTP error codes (RFC 1350 appendix).
const (
	tftpNotFound  = 1
	tftpViolation = 2 // access violation: write requests
	tftpIllegal   = 4
	tftpUnknownID = 5
)

// Bounds of options (RFC 2348, 2349, 7440; provisioning.md §3.3).
const (
	minBlock     = 8
	maxBlock     = 65464
	defaultBlock = 512
	// capBlock is the largest block that fits an Ethernet frame with room for a tunnel.
	capBlock  = 1428
	capWindow = 16
	// maxRequest bounds a read request: RFC 2347 allows 512 bytes.
	maxRequest = 512
	maxOptions = 16
)

// readRequest is RRQ with the options that are understood; zero values are options that were not asked for.
//
//	00 01 | name 00 | mode 00 | (option 00 value 00)...
type readRequest struct {
	Name    string
	Block   int // as asked, 8 to 65464
	Size    bool
	Timeout time.Duration // 1 to 255 s
	Window  int           // 1 to 65535
}

var errPacket = errors.New("malformed TFTP packet")

// parseRead reads the part of a read request after the opcode. Options that are not known or out of range are passed over,
// which means that they are not acknowledged.
func parseRead(b []byte) (readRequest, error) {
	var q readRequest
	if len(b)+2 > maxRequest {
		return q, fmt.Errorf("%w: %d bytes", errPacket, len(b)+2)
	}
	if len(b) == 0 || b[len(b)-1] != 0 {
		return q, fmt.Errorf("%w: not terminated", errPacket)
	}
	fields := bytes.Split(b[:len(b)-1], []byte{0})
	if len(fields) < 2 || len(fields[0]) == 0 {
		return q, fmt.Errorf("%w: no name or mode", errPacket)
	}
	// netascii is served as octet: no phone wants its files changed.
	if mode := strings.ToLower(string(fields[1])); mode != "octet" && mode != "netascii" {
		return q, fmt.Errorf("%w: mode %q", errPacket, mode)
	}
	q.Name = string(fields[0])
	options := fields[2:]
	if len(options)%2 != 0 || len(options)/2 > maxOptions {
		return q, fmt.Errorf("%w: options", errPacket)
	}
	seen := make(map[string]bool)
	for i := 0; i < len(options); i += 2 {
		option := strings.ToLower(string(options[i]))
		if seen[option] {
			continue // RFC 2347: once each; the first one counts
		}
		seen[option] = true
		n, err := strconv.ParseUint(string(options[i+1]), 10, 32)
		if err != nil {
			continue
		}
		switch {
		case option == "blksize" && n >= minBlock && n <= maxBlock:
			q.Block = int(n)
		case option == "tsize":
			q.Size = true
		case option == "timeout" && n >= 1 && n <= 255:
			q.Timeout = time.Duration(n) * time.Second
		case option == "windowsize" && n >= 1 && n <= 65535:
			q.Window = int(n)
		}
	}
	return q, nil
}

// optAck writes OACK: what the transfer will use, of what was asked for.
func optAck(q readRequest, block, window, size int) []byte {
	b := []byte{0, opOptAck}
	put := func(name string, n int) {
		b = append(b, name...)
		b = append(b, 0)
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, 0)
	}
	if q.Block > 0 {
		put("blksize", block)
	}
	if q.Size {
		put("tsize", size)
	}
	if q.Timeout > 0 {
		put("timeout", int(q.Timeout/time.Second))
	}
	if q.Window > 0 {
		put("windowsize", window)
	}
	return b
}

func (q readRequest) hasOptions() bool { return q.Block > 0 || q.Size || q.Timeout > 0 || q.Window > 0 }

// errorPacket writes ERROR.
func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(b, text...), 0)
}

// dataPacket writes DATA with block number n (its low 16 bits: they wrap) into b.
func dataPacket(b []byte, n uint64, body []byte, block int) []byte {
	b = append(b[:0], 0, opData, byte(n>>8), byte(n))
	start := min(int64(n-1)*int64(block), int64(len(body)))
	return append(b, body[start:min(start+int64(block), int64(len(body)))]...)
}
