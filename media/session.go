package media

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

// Format is a payload type with its meaning.
type Format struct {
	PT   uint8
	Name string // registered encoding name, compared without case: PCMU, G722, telephone-event
	Rate uint32 // RTP clock
	Tag  string // what else two formats must have in common to be the same, as the mode of a codec
}

// same tells whether two formats are one codec, so that its packets may be passed on with another number.
func (f Format) same(o Format) bool {
	return f.Rate == o.Rate && f.Tag == o.Tag && strings.EqualFold(f.Name, o.Name)
}

// Direction says which way a stream flows, seen from this end.
type Direction uint8

// Directions. Send and Receive are bits.
const (
	Inactive Direction = iota
	Send
	Receive
	Both = Send | Receive
)

// Remote is what was agreed with the party of a session, in both directions.
type Remote struct {
	RTP, RTCP netip.AddrPort // as described; RTCP defaults to the port after RTP's
	Origin    netip.Addr     // where its signalling comes from; when set, media from elsewhere must come from there
	Strict    bool           // take packets from RTP's address alone
	Send      []Format       // what the party accepts, by its numbers
	Receive   []Format       // what the party was told to send, by our numbers
	Direction Direction
	SendKey   Key // ours; zero for plain RTP
	RecvKey   Key // the party's
}

// SessionOptions describe a new session.
type SessionOptions struct {
	Label string // what the log calls it
}

// Session is one stream of one party. All methods may be called from any goroutine.
type Session struct {
	engine *Engine
	log    *slog.Logger
	port   uint16
	cname  string
	label  string
	data   endpoint
	ctrl   endpoint

	// Guarded by engine.control.
	remote Remote
	peer   *Session
	player *Player
	member *Member
	gain   int32
	closed bool

	rx struct {
		sync.Mutex
		closed    bool
		latch     latch
		ctrlLatch latch
		formats   [128]formatEntry // by our numbers
		muted     bool             // nothing is taken from the party
		keyed     Key
		srtp      *srtp.Context
		old       *srtp.Context // of the keys before, for packets under way
		oldUntil  int64
		streams   map[uint32]struct{} // sources the present context has seen

		sink  *Member // where packets go instead of to another session
		taps  []tap   // who listens as well; never changed in place
		to    *Session
		route [128]uint8 // our number to that of to, or noRoute, or transcoded
		trans *transcoder

		stream    receiver
		voice     voice
		gauge     gauge
		rate      uint32 // RTP clock of the last packet
		lastAt    int64
		lastSR    uint32 // middle of the NTP time of the party's last report
		lastSRAt  int64
		ctrlCount int // reports read in this second
		ctrlAt    int64
		count     RxStats
	}
	tx struct {
		sync.Mutex
		closed   bool
		target   sockaddr
		ctrlTo   sockaddr
		muted    bool
		pressing int   // key presses go out, and no sound
		playing  bool  // a player's sound goes out, and nothing of the other party
		playKind uint8 // in which codec
		playPT   uint8
		formats  [128]formatEntry // by the party's numbers
		keyed    Key
		srtp     *srtp.Context
		taps     []tap // who listens to what the party hears; never changed in place
		stream   sender
		voice    voice
		rate     uint32 // RTP clock of the last packet
		count    TxStats
		sentAt   uint64 // packets at the last report
		report   RemoteReport
		due      int64 // next report
	}
}

type formatEntry struct {
	rate  uint32 // 0: no such payload type
	event bool
	kind  uint8 // codec that can be decoded here, playEvent, or playNothing
}

// endpoint is one of the two sockets of a session.
type endpoint struct {
	session *Session
	control bool
	fd      int
	worker  *worker
}

// rekeyGrace is how long packets of the old key are taken after a new one was agreed ("sip-calls" §30).
const rekeyGrace = int64(time.Second)

// NewSession opens the ports of a stream. Nothing is sent or taken before SetRemote.
func (e *Engine) NewSession(o SessionOptions) (*Session, error) {
	s := &Session{engine: e, log: e.log, label: o.Label, gain: unity}
	if o.Label != "" {
		s.log = s.log.With("call", o.Label)
	}
	s.data.session, s.ctrl.session, s.ctrl.control = s, s, true
	s.data.fd, s.ctrl.fd = -1, -1
	var seed [16]byte
	_, _ = rand.Read(seed[:])
	s.cname = hex.EncodeToString(seed[:8])
	s.tx.stream.ssrc = binary.BigEndian.Uint32(seed[8:])
	// A first sequence number in the lower half keeps both ends' idea of the rollover counter equal even if the first
	// packets are lost (RFC 3711 §3.3.1).
	s.tx.stream.seq = binary.BigEndian.Uint16(seed[12:]) & 0x7fff
	s.tx.stream.ts = binary.BigEndian.Uint32(seed[10:])
	s.rx.muted, s.tx.muted = true, true

	e.state.Lock()
	if e.state.stopped {
		e.state.Unlock()
		return nil, ErrClosed
	}
	e.state.Unlock()
	w := e.pick()

	if err := s.open(w); err != nil {
		return nil, err
	}
	e.state.Lock()
	stopped := e.state.stopped
	if !stopped {
		e.state.sessions[s] = struct{}{}
	}
	e.state.Unlock()
	if stopped {
		s.Close()
		return nil, ErrClosed
	}
	return s, nil
}

// open binds a pair of ports. A pair that some other program holds is passed over; after a bounded number of those the
// range is as good as full.
func (s *Session) open(w *worker) error {
	e := s.engine
	var last error = ErrNoPorts
	for range maxBindTries {
		p, ok := e.takePort()
		if !ok {
			break
		}
		a, err := bindUDP(netip.AddrPortFrom(e.opts.Address, p))
		if err != nil {
			e.givePort(p)
			last = err
			continue
		}
		b, err := bindUDP(netip.AddrPortFrom(e.opts.Address, p+1))
		if err != nil {
			closeFD(a)
			e.givePort(p)
			last = err
			continue
		}
		s.port, s.data.fd, s.ctrl.fd = p, a, b
		s.data.worker, s.ctrl.worker = w, w
		s.rx.lastAt = e.now()
		s.tx.due = s.rx.lastAt + spread(e.opts.ReportEvery)
		if err := w.add(s); err != nil {
			closeFD(a)
			closeFD(b)
			e.givePort(p)
			return fmt.Errorf("media: watch port %d: %w", p, err)
		}
		return nil
	}
	return fmt.Errorf("media: bind: %w", last)
}

const maxBindTries = 256

// LocalPort is the RTP port; RTCP is the next.
func (s *Session) LocalPort() int { return int(s.port) }

// SetRemote takes what was agreed with the party, at first and after every later agreement. The stream continues: numbering
// goes on, equal keys keep their state, a changed receiving key leaves the old one valid for a second.
func (s *Session) SetRemote(r Remote) error {
	if r.RTP.IsValid() && !r.RTCP.IsValid() {
		r.RTCP = netip.AddrPortFrom(r.RTP.Addr(), r.RTP.Port()+1)
	}
	r.RTP, r.RTCP = unmapped(r.RTP), unmapped(r.RTCP)
	if r.Origin.IsValid() {
		r.Origin = r.Origin.Unmap()
	}
	e := s.engine
	e.control.Lock()
	defer e.control.Unlock()
	if s.closed {
		return ErrClosed
	}
	var in, out *srtp.Context
	var err error
	if !r.RecvKey.Zero() && !r.RecvKey.Equal(s.remote.RecvKey) {
		if in, err = r.RecvKey.context(); err != nil {
			return err
		}
	}
	if !r.SendKey.Zero() && !r.SendKey.Equal(s.remote.SendKey) {
		if out, err = r.SendKey.context(); err != nil {
			return err
		}
	}
	s.remote = r
	s.setReceiver(r, in)
	s.setSender(r, out)
	if s.peer != nil {
		link(s, s.peer)
		link(s.peer, s)
	}
	return nil
}

func (s *Session) setReceiver(r Remote, in *srtp.Context) {
	rx := &s.rx
	rx.Lock()
	defer rx.Unlock()
	rx.latch.describe(r.RTP, r.Origin, r.Strict)
	rx.ctrlLatch.describe(r.RTCP, r.Origin, r.Strict)
	rx.muted = r.Direction&Receive == 0
	rx.formats = table(r.Receive)
	rx.voice = voiceOf(r.Receive)
	// A party that answers with its own number for a format means to send with that number.
	for pt, f := range table(r.Send) {
		if rx.formats[pt].rate == 0 {
			rx.formats[pt] = f
		}
	}
	switch {
	case r.RecvKey.Zero():
		rx.srtp, rx.old, rx.streams = nil, nil, nil
	case in != nil:
		rx.old, rx.oldUntil = rx.srtp, 0
		rx.srtp, rx.streams = in, make(map[uint32]struct{})
	}
	rx.keyed = r.RecvKey
}

func (s *Session) setSender(r Remote, out *srtp.Context) {
	// Both locks, always in this order, so that a latch in between is not undone.
	s.rx.Lock()
	defer s.rx.Unlock()
	tx := &s.tx
	tx.Lock()
	defer tx.Unlock()
	tx.target.set(s.rx.latch.target())
	tx.ctrlTo.set(s.rx.ctrlLatch.target())
	tx.muted = r.Direction&Send == 0
	tx.formats = table(r.Send)
	tx.voice = voiceOf(r.Send)
	s.setPlayable(r.Send)
	switch {
	case r.SendKey.Zero():
		tx.srtp = nil
	case out != nil:
		tx.srtp = out
	}
	tx.keyed = r.SendKey
}

func table(formats []Format) (t [128]formatEntry) {
	for _, f := range formats {
		if f.PT < 128 {
			t[f.PT] = formatEntry{rate: max(f.Rate, 1), kind: playableOf(f)}
			if strings.EqualFold(f.Name, "telephone-event") {
				t[f.PT].event, t[f.PT].kind = true, playEvent
			}
		}
	}
	return t
}

// Bridge joins two sessions: what the party of one says goes to the party of the other, as far as directions and formats
// allow. Either may have been joined to another before; that one is then alone.
func Bridge(a, b *Session) error {
	if a == b || a.engine != b.engine {
		return fmt.Errorf("media: bridge of a session with itself or across engines")
	}
	a.engine.control.Lock()
	defer a.engine.control.Unlock()
	if a.closed || b.closed {
		return ErrClosed
	}
	if a.peer != b {
		for _, s := range []*Session{a, b} {
			s.partLocked()
			s.unmixLocked()
		}
		a.peer, b.peer = b, a
	}
	link(a, b)
	link(b, a)
	return nil
}

// Part ends a session's bridge, if it has one.
func (s *Session) Part() {
	s.engine.control.Lock()
	defer s.engine.control.Unlock()
	s.partLocked()
}

// partLocked is called with engine.control held.
func (s *Session) partLocked() {
	p := s.peer
	if p == nil {
		return
	}
	s.peer, p.peer = nil, nil
	for _, x := range []*Session{s, p} {
		x.rx.Lock()
		x.rx.to = nil
		x.rx.Unlock()
	}
}

// link computes which payload types of a go to b under which number: as they are where both have the codec, else transcoded where
// that is possible. It is called with engine.control held.
func link(a, b *Session) {
	var route [128]uint8
	for i := range route {
		route[i] = noRoute
	}
	to, pt := playFormat(b.remote.Send)
	for _, list := range [][]Format{a.remote.Send, a.remote.Receive} { // our own numbers last, they count most
		for _, f := range list {
			if f.PT >= 128 {
				continue
			}
			kind := playableOf(f)
			if a.gain != unity && kind != playNothing && to != playNothing {
				route[f.PT] = transcoded
				continue
			}
			direct := noRoute
			for _, g := range b.remote.Send {
				if f.same(g) {
					direct = g.PT
					break
				}
			}
			switch {
			case direct != noRoute:
				route[f.PT] = direct
			case kind != playNothing && to != playNothing:
				route[f.PT] = transcoded
			}
		}
	}
	a.rx.Lock()
	defer a.rx.Unlock()
	a.rx.to, a.rx.route = b, route
	if t := a.rx.trans; to != playNothing && (t == nil || t.to != to || t.pt != pt || t.gain != a.gain) {
		a.rx.trans = newTranscoder(to, pt, a.gain)
	}
}

const (
	noRoute    uint8 = 0xff
	transcoded uint8 = 0xfe
)

// Close ends the stream and frees its ports. It may be called again.
func (s *Session) Close() {
	e := s.engine
	e.control.Lock()
	if s.closed {
		e.control.Unlock()
		return
	}
	s.closed = true
	s.partLocked()
	s.playLocked(nil)
	s.unmixLocked()
	e.control.Unlock()

	// Under both locks no worker is in the middle of a packet, and none will begin one.
	s.rx.Lock()
	s.tx.Lock()
	s.rx.closed, s.tx.closed = true, true
	s.rx.gauge.stats = s.summaryLocked()
	last := s.rx.gauge.stats
	s.data.worker.remove(s)
	s.rx.srtp, s.rx.old, s.tx.srtp = nil, nil, nil
	s.rx.taps = nil
	s.tx.stream.source = nil
	s.tx.Unlock()
	s.rx.Unlock()

	e.settle()
	closeFD(s.data.fd)
	closeFD(s.ctrl.fd)
	e.givePort(s.port)
	e.state.Lock()
	delete(e.state.sessions, s)
	e.state.Unlock()
	if f := e.opts.Quality; f != nil && last.From.MOS+last.To.MOS > 0 {
		f(QualityReport{Session: s, Label: s.label, From: last.From, To: last.To, Final: true})
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	if !a.IsValid() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// scratch is the working memory of one worker; it is used by one packet at a time.
type scratch struct {
	in, plain, out [bufferSize]byte
	header         rtp.Header
	from           sockaddr
	// In a batch: how much of in is a datagram, and where to leave what is to be sent. See batch.
	got   int
	later *outgoing
}

// bufferSize takes any datagram that fits an Ethernet frame, and SRTP's trailer.
const bufferSize = 2048
