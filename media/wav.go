package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"ringfence/media/codec"
)

// ErrWAV is wrapped by every error of ReadWAV.
var ErrWAV = errors.New("not a usable WAV file")

const maxWAV = 64 << 20

// Kinds of samples in a WAV file, as its format chunk numbers them.
const (
	wavPCM        = 1
	wavALaw       = 6
	wavULaw       = 7
	wavExtensible = 0xfffe
)

// wavFormat is what the head of a file tells of its samples.
type wavFormat struct {
	kind           int // wavPCM, wavALaw, wavULaw
	channels, rate int
	size           int64 // octets of samples
}

// step is how many samples of each channel become one at 16 kHz, or at 8 kHz.
func (f wavFormat) step() int { return max(1, f.rate/sampleRate) }

// width is the octets of one sample of one channel.
func (f wavFormat) width() int {
	if f.kind == wavPCM {
		return 2
	}
	return 1
}

// block is how many octets become one sample.
func (f wavFormat) block() int { return f.width() * f.channels * f.step() }

// readWAVFormat reads the head of a file, up to the first sample.
//
//	"RIFF" size "WAVE"  { id size data }...   fmt: kind channels rate bytes/s align bits   data: samples, little endian
func readWAVFormat(r io.Reader) (f wavFormat, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[:4]) != "RIFF" || string(head[8:]) != "WAVE" {
		return f, fmt.Errorf("%w: no RIFF header", ErrWAV)
	}
	for {
		var chunk [8]byte
		if _, err := io.ReadFull(r, chunk[:]); err != nil {
			return f, fmt.Errorf("%w: no samples", ErrWAV)
		}
		size := int64(binary.LittleEndian.Uint32(chunk[4:]))
		switch string(chunk[:4]) {
		case "fmt ":
			if f, err = parseWAVFormat(r, size); err != nil {
				return f, err
			}
		case "data":
			if f.channels == 0 {
				return f, fmt.Errorf("%w: samples before their format", ErrWAV)
			}
			f.size = size
			return f, nil
		default:
			if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
				return f, fmt.Errorf("%w: no samples", ErrWAV)
			}
		}
	}
}

func parseWAVFormat(r io.Reader, size int64) (f wavFormat, err error) {
	if size < 16 || size > 4096 {
		return f, fmt.Errorf("%w: format of %d octets", ErrWAV, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return f, fmt.Errorf("%w: short format", ErrWAV)
	}
	f.kind, f.channels, f.rate = int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint32(b[4:]))
	bits := int(binary.LittleEndian.Uint16(b[14:]))
	if f.kind == wavExtensible {
		f.kind = wavPCM
		if size >= 26 { // the kind is the head of a long identifier then
			f.kind = int(binary.LittleEndian.Uint16(b[24:]))
		}
	}
	fits := f.kind == wavPCM && bits == 16 || (f.kind == wavALaw || f.kind == wavULaw) && bits == 8
	if !fits || f.channels < 1 || f.channels > 2 {
		err = fmt.Errorf("%w: format %d with %d bits and %d channels; 16 bit PCM, A-law or µ-law, mono or stereo, is needed", ErrWAV, f.kind, bits, f.channels)
	} else if f.rate != 8000 && (f.rate == 0 || f.rate%sampleRate != 0 || f.rate > 192000) {
		err = fmt.Errorf("%w: %d Hz; 8000 or 16000, or a multiple of 16000, is needed", ErrWAV, f.rate)
	}
	if err != nil {
		return wavFormat{}, err
	}
	return f, nil
}

// ReadWAV reads a recording: 16 bit PCM, A-law or µ-law, mono or stereo, 8 or 16 kHz (or a multiple of 16 kHz). Anything else, compressed
// files above all, is refused with what it is.
func ReadWAV(r io.Reader) ([]int16, error) {
	f, err := readWAVFormat(r)
	if err != nil {
		return nil, err
	}
	if f.size > maxWAV {
		return nil, fmt.Errorf("%w: %d octets", ErrWAV, f.size)
	}
	b, err := io.ReadAll(io.LimitReader(r, f.size))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWAV, err)
	}
	out := f.mono(nil, b)
	if f.rate == 8000 {
		var u codec.Upsampler
		out = u.Append(nil, out)
	}
	return out, nil
}

// mono appends the samples of b in one channel, at 16 kHz, or at 8 if that is what the file has. An incomplete one is left out.
func (f wavFormat) mono(dst []int16, b []byte) []int16 {
	n := f.channels * f.step()
	var one [1]int16
	for ; len(b) >= f.block(); b = b[f.block():] {
		sum := 0
		for j := range n { // averaging is a plain low-pass, good enough for the rare multiple
			switch f.kind {
			case wavPCM:
				sum += int(int16(binary.LittleEndian.Uint16(b[2*j:])))
			case wavULaw:
				sum += int(codec.DecodeULaw(one[:0], b[j:j+1])[0])
			case wavALaw:
				sum += int(codec.DecodeALaw(one[:0], b[j:j+1])[0])
			}
		}
		dst = append(dst, int16(sum/n))
	}
	return dst
}
