package phone

// G.711 from the definition of its segments (ITU-T G.711), so that it owes nothing to the server's tables.

// ulaw encodes one sample; decode is its inverse by table.
func ulaw(x int16) byte {
	const bias, clipAt = 132, 32635
	v, sign := int(x), byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, clipAt) + bias
	seg := 7
	for mask := 0x4000; seg > 0 && v&mask == 0; mask >>= 1 {
		seg--
	}
	return ^(sign | byte(seg)<<4 | byte(v>>(seg+3))&0x0f)
}

func fromUlaw(b byte) int16 {
	b = ^b
	seg := int(b>>4) & 7
	v := ((int(b&0x0f)<<3)+132)<<seg - 132
	if b&0x80 != 0 {
		return int16(-v)
	}
	return int16(v)
}

// alaw works on 13 bits: the sample without its lowest three.
func alaw(x int16) byte {
	v, sign := int(x)>>3, byte(0x80)
	if v < 0 {
		v, sign = -v-1, 0
	}
	v = min(v, 4095)
	seg := 7
	for mask := 0x800; seg > 0 && v&mask == 0; mask >>= 1 {
		seg--
	}
	shift := max(seg, 1)
	return (sign | byte(seg)<<4 | byte(v>>shift)&0x0f) ^ 0x55
}

func fromAlaw(b byte) int16 {
	b ^= 0x55
	seg := int(b>>4) & 7
	v := int(b&0x0f)<<1 | 1
	if seg > 0 {
		v = (v | 0x20) << (seg - 1)
	}
	v <<= 3
	if b&0x80 == 0 {
		return int16(-v)
	}
	return int16(v)
}
