package sdp

import (
	"slices"
	"strconv"
	"strings"

	"ringfence/media"
)

// Codec is an audio codec that can be passed from one leg to another. Two legs that agreed on equal Codecs may exchange
// packets as they are.
type Codec struct {
	Name    string // canonical encoding name
	Variant string // what else must be equal: the frame length of iLBC, the packing of AMR-WB
}

// String is the name, with the variant if there is one.
func (c Codec) String() string {
	if c.Variant != "" {
		return c.Name + "/" + c.Variant
	}
	return c.Name
}

// Codecs of "sip-calls" §27.3 that are relayed. L16, iSAC and MP4A-LATM are ignored, as that section says.
var (
	G722   = Codec{Name: "G722"}
	PCMU   = Codec{Name: "PCMU"}
	PCMA   = Codec{Name: "PCMA"}
	G729   = Codec{Name: "G729"}
	Opus   = Codec{Name: "opus"}
	ILBC20 = Codec{Name: "iLBC", Variant: "20"}
	ILBC30 = Codec{Name: "iLBC", Variant: "30"}
	AMRWB0 = Codec{Name: "AMR-WB", Variant: "0"} // bandwidth efficient
	AMRWB1 = Codec{Name: "AMR-WB", Variant: "1"} // octet aligned
)

// DefaultCodecs are offered to a leg when nobody has said yet what its partner can do.
func DefaultCodecs() []Codec { return []Codec{G722, PCMU, PCMA, G729} }

// Transcodable are the codecs that can be turned into each other here, preferred first.
func Transcodable() []Codec { return []Codec{G722, PCMU, PCMA} }

// Bridges tells whether parties that use these two can hear each other: the codec is the same, or can be turned into the other.
func Bridges(a, b Codec) bool {
	return a == b || slices.Contains(Transcodable(), a) && slices.Contains(Transcodable(), b)
}

// WithTranscodable appends to a list all codecs that can be turned into one of it.
func WithTranscodable(list []Codec) []Codec {
	out := slices.Clone(list)
	if !slices.ContainsFunc(list, func(c Codec) bool { return slices.Contains(Transcodable(), c) }) {
		return out
	}
	for _, c := range Transcodable() {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// codecInfo is how a codec is written. Dynamic numbers are those that Cisco phones use themselves.
type codecInfo struct {
	pt       uint8
	rate     uint32
	channels int
	params   string
}

var codecs = map[Codec]codecInfo{
	G722: {9, 8000, 0, ""}, // 16 kHz, but the RTP clock is 8000 for historical reasons (RFC 3551 §4.5.2)
	PCMU: {0, 8000, 0, ""},
	PCMA: {8, 8000, 0, ""},
	G729: {18, 8000, 0, "annexb=no"},
	// Phones do wideband only, so the answer may not exceed 16 kHz ("sip-calls" §27.3).
	Opus:   {114, 48000, 2, "maxplaybackrate=16000;sprop-maxcapturerate=16000;maxaveragebitrate=64000;stereo=0;sprop-stereo=0;usedtx=0"},
	ILBC20: {116, 8000, 0, "mode=20"},
	ILBC30: {117, 8000, 0, "mode=30"},
	AMRWB0: {113, 16000, 0, "octet-align=0;mode-change-capability=2"},
	AMRWB1: {115, 16000, 0, "octet-align=1;mode-change-capability=2"},
}

// eventPT is our number for key presses where we offer ("sip-calls" §28).
const eventPT = 101

// CodecOf tells which relayed codec a format is.
func CodecOf(f Format) (Codec, bool) {
	c := Codec{Name: strings.ToUpper(f.Name)}
	switch c.Name {
	case "OPUS":
		c.Name = "opus"
	case "ILBC":
		// RFC 3952 §5: without mode it is 30.
		c = ILBC30
		if mode, ok := f.Param("mode"); ok && mode == "20" {
			c = ILBC20
		}
	case "AMR-WB":
		c = AMRWB0
		if align, ok := f.Param("octet-align"); ok && align == "1" {
			c = AMRWB1
		}
	}
	info, ok := codecs[c]
	if !ok || info.rate != f.Rate {
		return Codec{}, false
	}
	return c, true
}

// AudioCodecs are the relayed codecs of the audio stream, in its order.
func (s *Session) AudioCodecs() []Codec {
	m := s.Audio()
	if m == nil {
		return nil
	}
	var list []Codec
	for _, f := range m.Formats {
		if c, ok := CodecOf(f); ok && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// Common returns the codecs of prefer that are in other too, in the order of prefer.
func Common(prefer, other []Codec) []Codec {
	var list []Codec
	for _, c := range prefer {
		if slices.Contains(other, c) {
			list = append(list, c)
		}
	}
	return list
}

// format writes a codec with our number.
func (c Codec) format() Format {
	i := codecs[c]
	return Format{PT: i.pt, Name: c.Name, Rate: i.rate, Channels: i.channels, Params: i.params}
}

func eventFormat(pt uint8) Format {
	return Format{PT: pt, Name: "telephone-event", Rate: 8000, Params: "0-15"}
}

// mediaFormat is what the relay needs to know of a format; false for formats that are not passed on.
func mediaFormat(f Format) (media.Format, bool) {
	if f.Event() {
		return media.Format{PT: f.PT, Name: "telephone-event", Rate: f.Rate}, true
	}
	c, ok := CodecOf(f)
	if !ok {
		return media.Format{}, false
	}
	return media.Format{PT: f.PT, Name: c.Name, Rate: f.Rate, Tag: c.Variant}, true
}

func mediaFormats(formats []Format) []media.Format {
	var list []media.Format
	for _, f := range formats {
		if m, ok := mediaFormat(f); ok {
			list = append(list, m)
		}
	}
	return list
}

// describe names formats for the log: "9 G722, 101 telephone-event".
func describe(formats []Format) string {
	var b strings.Builder
	for i, f := range formats {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(int(f.PT)) + " " + f.Name)
	}
	return b.String()
}
