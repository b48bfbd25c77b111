package mailbox

import (
	"math"
	"time"
)

const rate = 16000

// tone is a sound of one frequency, softened at both ends.
func tone(hz float64, d time.Duration) []int16 {
	n := int(d * rate / time.Second)
	out := make([]int16, n)
	for i := range out {
		soft := min(1, float64(i)/160, float64(n-i)/160)
		out[i] = int16(6000 * soft * math.Sin(2*math.Pi*hz*float64(i)/rate))
	}
	return out
}

func silence(d time.Duration) []int16 { return make([]int16, int(d*rate/time.Second)) }

func join(parts ...[]int16) []int16 {
	var out []int16
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// chime announces a mailbox without a greeting.
func chime(hz ...float64) []int16 {
	var out []int16
	for _, f := range hz {
		out = join(out, tone(f, 250*time.Millisecond), silence(50*time.Millisecond))
	}
	return join(out, out)
}

// beep is where the caller begins to speak.
func beep() []int16 { return join(silence(200*time.Millisecond), tone(1000, 400*time.Millisecond)) }

// ready asks for a key, refused says no, done says yes.
func ready() []int16 {
	return join(tone(700, 120*time.Millisecond), silence(60*time.Millisecond), tone(900, 120*time.Millisecond))
}
func refused() []int16 { return tone(300, 600*time.Millisecond) }
func done() []int16    { return tone(900, 150*time.Millisecond) }

// count is one short beep for each new message, nine at most.
func count(n int) []int16 {
	var out []int16
	for range min(n, 9) {
		out = join(out, tone(1200, 80*time.Millisecond), silence(120*time.Millisecond))
	}
	return join(out, silence(200*time.Millisecond))
}
