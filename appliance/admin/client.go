package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of the verbs.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2
)

// maxAnswer bounds what the client reads of an answer.
const maxAnswer = 64 << 20

// Client speaks to a running daemon.
type Client struct {
	Socket string
	Verbs  []Verb
}

// Find is the verb that args begin with, and the arguments that remain.
func (c Client) Find(args []string) (v Verb, rest []string, err error) {
	if len(args) == 0 {
		return v, nil, errors.New("no verb given")
	}
	for words := min(len(args), 3); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		for _, v := range c.Verbs {
			if v.Name == name {
				return v, args[words:], nil
			}
		}
	}
	var next []string
	for _, v := range c.Verbs {
		if word, ok := strings.CutPrefix(v.Name, args[0]+" "); ok {
			next = append(next, word)
		}
	}
	if len(next) == 0 {
		return v, nil, fmt.Errorf("no verb %q; ringfence help lists them", args[0])
	}
	slices.Sort(next)
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return v, nil, fmt.Errorf("%s has no verb %q, but %s", args[0], args[1], strings.Join(next, ", "))
	}
	return v, nil, fmt.Errorf("%s needs one of: %s", args[0], strings.Join(next, ", "))
}

// Command runs the verb that args name and returns the exit code. Errors go to stderr as one line.
func (c Client) Command(args []string, stdout, stderr io.Writer) int {
	v, rest, err := c.Find(args)
	if err != nil {
		fmt.Fprintf(stderr, "ringfence: %v\n", err)
		return ExitUsage
	}
	req, asJSON, err := parse(v, rest)
	if errors.Is(err, errHelp) {
		Help(stdout, v)
		return ExitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "ringfence: %v\nusage: ringfence %s\n", err, v.Usage())
		return ExitUsage
	}
	if v.Prepare != nil {
		err = v.Prepare(&req)
	}
	var answer json.RawMessage
	if err == nil {
		answer, err = c.Do(context.Background(), v, req)
	}
	if err == nil {
		if asJSON || v.Print == nil {
			_, err = stdout.Write(answer)
		} else {
			err = v.Print(stdout, answer)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "ringfence: %v\n", err)
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusBadRequest {
			return ExitUsage
		}
		return ExitError
	}
	return ExitOK
}

var errHelp = errors.New("help asked")

// parse reads flags wherever they stand.
func parse(v Verb, args []string) (req Request, asJSON bool, err error) {
	req.Flags = map[string]string{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			req.Args = append(req.Args, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			req.Args = append(req.Args, a)
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch j := slices.IndexFunc(v.Flags, func(f Flag) bool { return f.Name == name }); {
		case name == "help" || name == "h":
			return req, false, errHelp
		case name == "json" && !given:
			asJSON = true
		case j < 0:
			return req, false, fmt.Errorf("%s has no flag %s", v.Name, a)
		case v.Flags[j].Bool && given:
			return req, false, fmt.Errorf("--%s takes no value", name)
		case v.Flags[j].Bool:
			req.Flags[name] = "true"
		case given:
			req.Flags[name] = value
		case i+1 < len(args):
			i++
			req.Flags[name] = args[i]
		default:
			return req, false, fmt.Errorf("--%s needs a value", name)
		}
	}
	switch n := len(req.Args); {
	case n < v.Min:
		return req, false, fmt.Errorf("%s needs %s", v.Name, v.Args)
	case n > v.Max && v.Max == 0:
		return req, false, fmt.Errorf("%s takes no arguments", v.Name)
	case n > v.Max:
		return req, false, fmt.Errorf("%s: too many arguments", v.Name)
	}
	return req, asJSON, nil
}

// Do asks the daemon and returns its answer as JSON. A refusal is an *Error.
func (c Client) Do(ctx context.Context, v Verb, req Request) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	target := "http://ringfence" + v.path()
	var body io.Reader
	if v.Change {
		b, err := json.Marshal(req)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	} else {
		q := url.Values{}
		for name, value := range req.Flags {
			q.Set(name, value)
		}
		q["arg"] = req.Args
		target += "?" + q.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, v.method(), target, body)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.Socket)
	}
	tr := &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil || len(answer) > maxAnswer {
		return nil, fmt.Errorf("read the daemon's answer: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	if res.StatusCode != http.StatusOK {
		var ref refusal
		if json.Unmarshal(answer, &ref) != nil || ref.Error == "" {
			ref.Error = "the daemon answers " + res.Status
		}
		return nil, &Error{res.StatusCode, ref.Error}
	}
	return answer, nil
}

// explain says in plain words why the socket does not answer.
func (c Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no daemon answers at %s: is ringfence run running, with the same --socket or --state?", c.Socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission for %s: only root and the user of the daemon may give orders", c.Socket)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the daemon at %s does not answer in %s", c.Socket, requestTime)
	}
	return fmt.Errorf("ask the daemon at %s: %w", c.Socket, errors.Unwrap(err))
}

// Help prints one verb's help.
func Help(w io.Writer, v Verb) {
	fmt.Fprintf(w, "usage: ringfence %s\n\n%s\n", v.Usage(), v.Short)
	if v.Help != "" {
		fmt.Fprintf(w, "%s\n", v.Help)
	}
	if len(v.Flags) > 0 {
		fmt.Fprintln(w)
	}
	for _, f := range v.Flags {
		fmt.Fprintf(w, "  --%s  %s\n", f.Name, f.Usage)
	}
}

// Answers tells whether a daemon listens at the socket.
func (c Client) Answers() bool {
	conn, err := net.DialTimeout("unix", c.Socket, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
