package call

import (
	"errors"

	"ringfence/sip/sdp"
)

// Rooms that have a number ("sip-calls" §20): the first party opens one, others come in by calling it.

var errFull = errors.New("too many calls")

// OpenRoom puts the caller alone into a room, which stays as long as anybody is in it. made is called in the room's goroutine. With an
// error the caller was refused, or is gone.
func (c *Call) OpenRoom(shows Identity, hooks Hooks, made func(r *Room, first *Leg)) error {
	l, body, err := c.readyForRoom()
	if err != nil {
		return err
	}
	r := c.m.newRoom(c.dialled, hooks, shows)
	r.standing = true
	if !c.m.startOwner(&r.owner, r) {
		c.refuse(503)
		return errFull
	}
	c.caller = nil
	c.release(l)
	r.owner.adopt(l)
	_ = r.send(message{run: func() {
		made(r, l)
		r.comeIn(l, body, shows)
	}})
	c.m.tasks.Go("room", r.run, r.cleanup)
	return nil
}

// EnterRoom puts the caller into a room, whose goroutine is asked whether there is a place. If there is none the caller is refused
// with a code.
func (c *Call) EnterRoom(r *Room, shows Identity, ask func(l *Leg) bool, code int) {
	l, body, err := c.readyForRoom()
	if err != nil {
		return
	}
	c.giveTo(l, r.owner, code, func(*owner) error {
		if r.isOver || !ask(l) {
			return errGone
		}
		r.adopt(l)
		r.comeIn(l, body, shows)
		return nil
	})
}

// readyForRoom prepares the caller, who waits or talks already, for a codec that can be mixed.
func (c *Call) readyForRoom() (*Leg, []byte, error) {
	l := c.caller
	if l == nil || c.callee != nil || c.lent != nil || len(c.branches) > 0 {
		return nil, nil, errGone
	}
	if !l.waiting() {
		return l, nil, nil // the room asks for another codec itself
	}
	codecs, ptime := c.codecs()
	err := error(sdp.ErrNoCodec)
	for _, codec := range sdp.Common(RoomCodecs, codecs) {
		var body []byte
		if body, err = l.prepare(codec, ptime); err == nil {
			return l, body, nil
		}
	}
	c.refuse(488)
	return nil, nil, err
}

func (r *Room) comeIn(l *Leg, body []byte, shows Identity) {
	if l.waiting() {
		l.peer, l.security = shows, l.level()
		l.accept(body)
	} else {
		l.media.Part()
		l.Show(shows, l.level())
	}
	r.enter(l)
}
