package cisco

import (
	"fmt"
	"net/netip"
	"strconv"
)

// StartMedia lets a phone play an RTP stream ("rtp-streaming" §1). It goes as a part of type TypeCM behind a DataPassthrough.
//
//	<startMedia><mediaStream receiveVolume="75"><type>audio</type><codec>G.722</codec><mode>receive</mode>
//	<address>192.0.2.10</address><port>20480</port></mediaStream></startMedia>
type StartMedia struct {
	Volume  int    // percent of the loudest; 0 is what the user has chosen
	Codec   string // G.711, G.722, G.729
	Address netip.Addr
	Port    int
}

// Ports that phones take, even ones.
const (
	StreamFirst = 20480
	StreamLast  = 32768
)

// Marshal returns the document.
func (s *StartMedia) Marshal() []byte {
	volume := ""
	if s.Volume > 0 {
		volume = ` receiveVolume="` + strconv.Itoa(s.Volume) + `"`
	}
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<startMedia>
<mediaStream` + volume + `>
<type>audio</type>
<codec>` + s.Codec + `</codec>
<mode>receive</mode>
<address>` + s.Address.String() + `</address>
<port>` + strconv.Itoa(s.Port) + `</port>
</mediaStream>
</startMedia>
`)
}

// Check tells whether phones take it.
func (s *StartMedia) Check() error {
	switch {
	case s.Volume < 0 || s.Volume > 100:
		return fmt.Errorf("volume %d is not within 1 to 100", s.Volume)
	case s.Codec != "G.711" && s.Codec != "G.722" && s.Codec != "G.729":
		return fmt.Errorf("no codec %q", s.Codec)
	case !s.Address.Is4() || s.Address.IsUnspecified():
		return fmt.Errorf("no IPv4 address: %v", s.Address)
	case s.Port < StreamFirst || s.Port > StreamLast || s.Port%2 != 0:
		return fmt.Errorf("port %d is not an even one of %d to %d", s.Port, StreamFirst, StreamLast)
	}
	return nil
}

// StopMedia ends every stream of a phone: its answer to StartMedia names none, so one cannot be told from another.
func StopMedia() []byte {
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<stopMedia>
<mediaStream />
</stopMedia>
`)
}
