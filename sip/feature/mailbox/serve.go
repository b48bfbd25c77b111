package mailbox

import (
	"context"
	"crypto/subtle"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

// Deposit takes a message of the caller; it is an entry of call.Options.Numbers.
func (b *Boxes) Deposit(c *call.Call, o plan.Object) {
	if len(b.List(o.Number)) >= b.o.MaxMessages {
		b.log.Info("mailbox is full", "line", o.Number)
		c.Refuse(503)
		return
	}
	if b.o.Room != nil {
		if err := b.o.Room(); err != nil {
			b.log.Warn("message refused", "line", o.Number, "err", err)
			c.Refuse(503)
			return
		}
	}
	s, err := c.Attend("voicemail", call.Identity{Name: o.Name, Number: o.Number})
	if err != nil {
		return
	}
	from := s.Caller()
	if from.Restricted {
		from = call.Identity{}
	}
	_ = s.Do(func() {
		d := &deposit{b: b, s: s, box: o.Number, from: from}
		s.Left = d.end
		if err := s.Digits(d.key); err != nil {
			b.log.Debug("keys", "err", err)
		}
		s.Play(&media.Once{Samples: join(silence(500*time.Millisecond), b.greeting(o.Number, o.Busy))}, d.beep)
	})
}

// deposit is a caller who leaves a message.
type deposit struct {
	b      *Boxes
	s      *call.Solo
	box    string
	from   call.Identity
	beeped bool
	m      Message
	stop   func() // the recording; nil before and after it
}

func (d *deposit) key(k byte) {
	switch {
	case !d.beeped:
		d.beep()
	case k == '#':
		d.end()
		d.s.Play(&media.Once{Samples: done()}, d.s.Hangup)
	}
}

func (d *deposit) beep() {
	if d.beeped {
		return
	}
	d.beeped = true
	d.s.Play(&media.Once{Samples: beep()}, d.record)
}

func (d *deposit) record() {
	d.s.Hush()
	var err error
	if d.m, err = d.b.begin(context.Background(), d.box, d.from.Number, d.from.Name); err == nil {
		d.stop, err = d.s.Record(d.b.folder(d.m), d.recorded)
	}
	if err != nil {
		d.b.log.Error("message cannot be taken", "line", d.box, "err", err)
		d.s.Play(&media.Once{Samples: refused()}, d.s.Hangup)
		return
	}
	d.s.After(d.b.o.MaxLength, func() {
		d.end()
		d.s.Play(&media.Once{Samples: refused()}, d.s.Hangup)
	})
}

// recorded keeps the message. It is called once for each recording, whether the caller is still there or not.
func (d *deposit) recorded(rec media.Recording, err error) {
	if err != nil {
		d.b.log.Error("recording", "line", d.box, "err", err)
	}
	d.b.finish(context.Background(), d.m, rec)
}

func (d *deposit) end() {
	if d.stop != nil {
		d.stop()
		d.stop = nil
	}
}

// Retrieve plays the messages of the caller's own line.
func (b *Boxes) Retrieve(c *call.Call, o plan.Object) {
	line := c.Caller()
	if line == nil {
		return
	}
	s, err := c.Attend("voicemail", call.Identity{Name: "Voice Mail", Number: o.Number})
	if err != nil {
		return
	}
	_ = s.Do(func() {
		r := &retrieval{b: b, s: s, box: line.Number}
		s.Left = r.end
		if err := s.Digits(r.key); err != nil {
			b.log.Debug("keys", "err", err)
		}
		if b.o.PIN != nil {
			r.pin = b.o.PIN(line.Number)
		}
		r.idle()
		if r.pin != "" {
			r.do = r.unlock
			r.show("PIN, then #", 30)
			s.Play(&media.Once{Samples: join(silence(300*time.Millisecond), ready())}, nil)
			return
		}
		r.open()
	})
}

// retrieval is somebody at his own mailbox.
//
//	[PIN #] --> message: 1 again  2 next  4 back  3 delete  0 greetings  # or * end
//	                       0 --> 1 away  2 busy  3 temporary --> beep, speak, # ; nothing said ends the greeting
type retrieval struct {
	b     *Boxes
	s     *call.Solo
	box   string
	pin   string
	typed string
	wrong int
	do    func(key byte) // what a key means now
	list  []Message
	at    int
	stop  func() // a greeting that is recorded
	moves int    // counts keys, for the time-out
}

const (
	maxWrong    = 3
	maxPIN      = 12
	patience    = 30 * time.Second
	maxGreeting = time.Minute
)

// idle hangs up on somebody who does nothing for long. Playing counts as doing.
func (r *retrieval) idle() {
	r.moves++
	moves := r.moves
	r.s.After(patience+r.longest(), func() {
		if r.moves == moves {
			r.end()
			r.s.Hangup()
		}
	})
}

func (r *retrieval) longest() time.Duration {
	if r.at < len(r.list) {
		return time.Duration(r.list[r.at].Seconds * float64(time.Second))
	}
	return 0
}

func (r *retrieval) key(k byte) {
	if r.do != nil {
		r.do(k)
	}
	r.idle()
}

func (r *retrieval) show(text string, seconds int) {
	if p := r.s.Party(); p != nil && p.Cisco {
		p.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Text: text, Seconds: seconds, Priority: 1}})
	}
}

func (r *retrieval) unlock(k byte) {
	if k != '#' {
		if len(r.typed) < maxPIN {
			r.typed += string(rune(k))
		}
		return
	}
	ok := subtle.ConstantTimeCompare([]byte(r.typed), []byte(r.pin)) == 1
	r.typed = ""
	if ok {
		r.open()
		return
	}
	r.wrong++
	r.b.log.Info("wrong PIN", "line", r.box, "count", r.wrong)
	if r.wrong >= maxWrong {
		r.do = nil
		r.s.Play(&media.Once{Samples: refused()}, r.s.Hangup)
		return
	}
	r.s.Play(&media.Once{Samples: refused()}, nil)
}

// open begins with the new messages, the oldest first.
func (r *retrieval) open() {
	all := r.b.List(r.box)
	unheard := 0
	for _, m := range all {
		if !m.Heard {
			unheard++
		}
	}
	slices.SortStableFunc(all, func(a, b Message) int {
		switch {
		case a.Heard == b.Heard:
			return 0
		case a.Heard:
			return 1
		}
		return -1
	})
	r.list, r.at, r.do = all, 0, r.menu
	if len(all) == 0 {
		r.show("No messages. 0 greetings, # end", 15)
		r.s.Play(&media.Once{Samples: join(silence(300*time.Millisecond), refused())}, nil)
		return
	}
	r.s.Play(&media.Once{Samples: join(silence(300*time.Millisecond), count(unheard))}, r.play)
}

func (r *retrieval) play() {
	if r.at >= len(r.list) {
		r.show("No more messages. 4 back, # end", 15)
		r.s.Play(&media.Once{Samples: refused()}, nil)
		return
	}
	m := r.list[r.at]
	samples, err := readWAV(r.b.File(m))
	if err != nil {
		r.b.log.Error("message", "line", r.box, "err", err)
		r.s.Play(&media.Once{Samples: refused()}, nil)
		return
	}
	who := m.From
	if who == "" {
		who = "unknown"
	}
	r.show(fmt.Sprintf("%d/%d from %s %s. 1 again 2 next 3 delete", r.at+1, len(r.list), who, m.At.Local().Format("02.01. 15:04")), 30)
	r.s.Play(&media.Once{Samples: join(samples, silence(200*time.Millisecond), ready())}, func() { r.heard(m) })
	r.idle()
}

// heard turns a new message into an old one.
func (r *retrieval) heard(m Message) {
	if m.Heard {
		return
	}
	m.Heard = true
	if err := r.b.put(context.Background(), m); err != nil {
		r.b.log.Error("message", "line", r.box, "err", err)
		return
	}
	if i := slices.IndexFunc(r.list, func(x Message) bool { return x.ID == m.ID }); i >= 0 {
		r.list[i] = m
	}
}

func (r *retrieval) menu(k byte) {
	switch k {
	case '1':
		r.play()
	case '2', '6':
		if r.at < len(r.list) {
			r.heard(r.list[r.at]) // who goes on has heard enough
			r.at++
		}
		r.play()
	case '4':
		r.at = max(r.at-1, 0)
		r.play()
	case '3', '7':
		if r.at >= len(r.list) {
			r.s.Play(&media.Once{Samples: refused()}, nil)
			return
		}
		if err := r.b.Delete(context.Background(), r.box, r.list[r.at].ID); err != nil {
			r.b.log.Error("message", "line", r.box, "err", err)
			r.s.Play(&media.Once{Samples: refused()}, nil)
			return
		}
		r.list = slices.Delete(slices.Clone(r.list), r.at, r.at+1)
		r.s.Play(&media.Once{Samples: done()}, r.play)
	case '0':
		r.do = r.greetings
		r.show("Greeting: 1 away 2 busy 3 temporary", 15)
		r.s.Play(&media.Once{Samples: ready()}, nil)
	case '#', '*':
		r.do = nil
		r.s.Hangup()
	}
}

func (r *retrieval) greetings(k byte) {
	kind := map[byte]string{'1': unavailable, '2': busy, '3': temporary}[k]
	if kind == "" {
		r.do = r.menu
		r.s.Play(&media.Once{Samples: refused()}, nil)
		return
	}
	r.do = nil
	r.show("Speak, then #", 60)
	r.s.Play(&media.Once{Samples: beep()}, func() { r.speak(kind) })
}

// speak records a greeting.
func (r *retrieval) speak(kind string) {
	r.s.Hush()
	dir := filepath.Join(r.b.o.Dir, safe(r.box), "greetings")
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		r.stop, err = r.s.Record(dir, func(rec media.Recording, err error) {
			if err == nil {
				err = r.b.setGreeting(context.Background(), r.box, kind, rec)
			}
			if err != nil {
				r.b.log.Error("greeting", "line", r.box, "err", err)
			}
		})
	}
	if err != nil {
		r.b.log.Error("greeting", "line", r.box, "err", err)
		r.do = r.menu
		r.s.Play(&media.Once{Samples: refused()}, nil)
		return
	}
	finish := func() {
		if r.stop != nil {
			r.end()
			r.do = r.menu
			r.s.Play(&media.Once{Samples: done()}, nil)
		}
	}
	r.do = func(k byte) {
		if k == '#' {
			finish()
		}
	}
	r.s.After(maxGreeting, finish)
}

func (r *retrieval) end() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// Echo lets callers hear themselves.
func Echo(c *call.Call, o plan.Object) {
	s, err := c.Attend("echo", call.Identity{Name: "Echo", Number: o.Number})
	if err != nil {
		return
	}
	_ = s.Do(func() {
		if s.Echo() != nil {
			s.Hangup()
		}
	})
}
