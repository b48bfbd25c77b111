package provision

import (
	"encoding/binary"
	"time"
)

// Retransmission (provisioning.md §3.3). The first wait is short: the TFTP client of 8800 phones loses the first packet of
// each transfer and then waits.
const (
	tftpFirstWait = 400 * time.Millisecond
	tftpMaxWait   = 5 * time.Second
	tftpTries     = 5
	tftpNudges    = 10
)

// transfer is one file on its way to one phone, without socket and clock: the owner sends what its methods return and
// tells it what came.
//
//	          options                 ACK 0
//	start ─────────────► negotiating ────────► sending ──► done (ACK of the last block)
//	  │ none                                    ▲   │ ▲
//	  └─────────────────────────────────────────┘   └─┘ ACK of a block: the next window
//
// A timeout sends the OACK or the window again, tftpTries times. A doubled ACK sends nothing: answering it would double
// every packet from there on (sorcerer's apprentice, RFC 1123 §4.2.3.1).
type transfer struct {
	body   []byte
	block  int
	window uint64

	negotiating bool
	optAck      []byte
	acked       uint64 // blocks acknowledged; numbers on the wire are its low 16 bits and wrap
	sent        uint64 // highest block sent
	last        uint64 // the final block, shorter than the others or empty
	tries       int
	nudges      int
	wait, first time.Duration
}

func newTransfer(q readRequest, body []byte, maxBlockSize int) *transfer {
	t := &transfer{body: body, block: defaultBlock, window: 1, first: tftpFirstWait}
	if q.Block > 0 {
		t.block = min(q.Block, max(minBlock, maxBlockSize))
	}
	if q.Window > 0 {
		t.window = uint64(min(q.Window, capWindow))
	}
	if q.Timeout > 0 {
		t.first = q.Timeout
	}
	t.wait = t.first
	t.last = uint64(len(body)/t.block) + 1
	if q.hasOptions() {
		t.negotiating = true
		t.optAck = optAck(q, t.block, int(t.window), len(body))
	}
	return t
}

// packets are the OACK, or the window after what is acknowledged.
func (t *transfer) packets() [][]byte {
	if t.negotiating {
		return [][]byte{t.optAck}
	}
	var out [][]byte
	end := min(t.acked+t.window, t.last)
	for n := t.acked + 1; n <= end; n++ {
		out = append(out, dataPacket(make([]byte, 0, 4+t.block), n, t.body, t.block))
	}
	t.sent = end
	return out
}

func (t *transfer) start() [][]byte { return t.packets() }

// ack takes the number of an ACK and returns what to send next; done when the phone has everything.
func (t *transfer) ack(n uint16) (out [][]byte, done bool) {
	if t.negotiating {
		if n != 0 {
			return nil, false
		}
		t.negotiating = false
		t.progress()
		return t.packets(), false
	}
	step := uint64(n - uint16(t.acked))
	if step == 0 || step > t.sent-t.acked { // doubled, or of no block that is under way
		return nil, false
	}
	t.acked += step
	t.progress()
	if t.acked == t.last {
		return nil, true
	}
	return t.packets(), false
}

func (t *transfer) progress() { t.tries, t.wait = 0, t.first }

// timeout returns what to send again; ok is false when the phone is given up.
func (t *transfer) timeout() (out [][]byte, ok bool) {
	if t.tries++; t.tries > tftpTries {
		return nil, false
	}
	t.wait = min(2*t.wait, max(tftpMaxWait, t.first))
	return t.packets(), true
}

// nudge is a repeated read request: the phone did not get our first packet. Later ones are stale.
func (t *transfer) nudge() [][]byte {
	if t.acked > 0 || !t.negotiating && t.optAck != nil {
		return nil
	}
	if t.nudges++; t.nudges > tftpNudges {
		return nil
	}
	return t.packets()
}

// bytes acknowledged so far.
func (t *transfer) bytes() int { return int(min(t.acked*uint64(t.block), uint64(len(t.body)))) }

// ackNumber reads an ACK packet.
func ackNumber(b []byte) (uint16, bool) {
	if len(b) < 4 || b[0] != 0 || b[1] != opAck {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[2:]), true
}
