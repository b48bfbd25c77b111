package admin

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"
)

// PassphraseEnv is where scripts may put a passphrase that no file holds.
const PassphraseEnv = "RINGFENCE_PASSPHRASE"

// maxFile is more than keys, certificates and trust lists have, and less than a request may hold.
const maxFile = 512 << 10

// Asking is how people are asked for a passphrase that neither a file nor the environment holds.
type Asking int

const (
	Ask      Asking = iota // once
	AskTwice               // twice, to make a new one
	AskMaybe               // once, and scripts may have none: "" is an answer
)

// Passphrase is the first line of file, else $RINGFENCE_PASSPHRASE, else what is typed at the terminal. It is read
// where the verb is typed, never by the daemon.
func Passphrase(file string, how Asking) (string, error) {
	if file != "" {
		b, err := ReadFile(file)
		if err != nil {
			return "", err
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return strings.TrimRight(line, "\r"), nil
	}
	if s := os.Getenv(PassphraseEnv); s != "" {
		return s, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		if how == AskMaybe {
			return "", nil
		}
		return "", errors.New("a passphrase is wanted: give --passphrase-file, or set " + PassphraseEnv)
	}
	question := "Passphrase: "
	if how == AskMaybe {
		question = "Passphrase (empty if there is none): "
	}
	p, err := prompt(question)
	if err != nil || how != AskTwice {
		return p, err
	}
	again, err := prompt("The same again: ")
	if err == nil && again != p {
		err = errors.New("the two passphrases differ")
	}
	return p, err
}

func prompt(text string) (string, error) {
	fmt.Fprint(os.Stderr, text)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	return string(b), err
}

// ReadFile reads a file that an administrator names, of at most 512 KiB.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return b, err
}

// Carry puts the content of the file that value names in its place, for Verb.Prepare: the daemon reads no file with its own rights.
func Carry(value *string) error {
	b, err := ReadFile(*value)
	*value = base64.StdEncoding.EncodeToString(b)
	return err
}

// Carried is the content that Carry put there. The error is Usage.
func Carried(value string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return nil, Usage("the content of the file is not base64")
	}
	return b, nil
}

// QR draws text as a QR code with two modules to a character and its quiet zone, light modules in the colour of the
// text, as is right for light text on a dark ground. Scanners read it the other way round too. The error is text that is too long.
func QR(text string, level qr.Level) (string, error) {
	code, err := qr.Encode(text, level)
	if err != nil {
		return "", fmt.Errorf("QR code: %w", err)
	}
	const quiet = 2
	light := func(x, y int) bool { return !code.Black(x, y) } // outside is light
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			upper, lower := light(x, y), light(x, y+1) && y+1 < code.Size+quiet
			switch {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
