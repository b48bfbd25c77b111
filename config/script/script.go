// Package script runs the functions of dial plan rules ("dialplan" §2): small Starlark programs for what declarations cannot say.
//
//	def route(call):
//	    if call.dialled.startswith("7") and call.time.hour >= 18:
//	        return "voicemail:301"
//	    if field("donotdisturb", "302") == "yes":
//	        set("callforward", "303")
//
// The function route gets the call and returns a destination as rules write it, or None for the call to go on. It may call field(name,
// line) and set(name, value, line) for the fields of lines; without a line they are the caller's. Nothing else is there: no files, no
// network, no other modules, no loops without end (steps and time are bounded), no memory from one call to the next, since what stands
// outside of the function is frozen.
package script

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

// Bounds of one run and of the text.
const (
	maxSteps = 20000
	maxTime  = 100 * time.Millisecond
	maxSets  = 8
	MaxText  = 16 << 10
)

// Error is a fault of a script, with its place in the text.
type Error struct {
	Line, Column int // from 1; 0 where none can be told
	Text         string
	Hint         string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Text)
}

// Call is what the function is told.
type Call struct {
	From, Name string // line that calls, and its name
	Dialled    string
	Time       time.Time
}

// Host is what the function may ask and do.
type Host struct {
	Field func(line, name string) (string, bool)
	Set   func(line, name, value string) error
}

// Script is a compiled function. It may be run by several calls at once.
type Script struct{ route *starlark.Function }

var options = &syntax.FileOptions{}

// Compile reads a script and looks for its function.
func Compile(text string) (*Script, error) {
	if len(text) > MaxText {
		return nil, &Error{Text: fmt.Sprintf("the script is longer than %d bytes", MaxText), Hint: "a shorter one"}
	}
	names := map[string]bool{"field": true, "set": true}
	_, program, err := starlark.SourceProgramOptions(options, "script", text, func(name string) bool { return names[name] })
	if err != nil {
		return nil, place(err)
	}
	if program.NumLoads() > 0 {
		_, at := program.Load(0)
		return nil, &Error{Line: int(at.Line), Column: int(at.Col), Text: "a script cannot load others", Hint: "write everything here"}
	}
	globals, err := program.Init(thread(&starlark.Thread{}), starlark.StringDict{"field": outside("field"), "set": outside("set")})
	if err != nil {
		return nil, place(err)
	}
	globals.Freeze()
	f, ok := globals["route"].(*starlark.Function)
	if !ok {
		return nil, &Error{Line: 1, Column: 1, Text: "the script has no function route", Hint: "begin with def route(call):"}
	}
	if f.NumParams() != 1 || f.HasVarargs() || f.HasKwargs() {
		return nil, &Error{Line: int(f.Position().Line), Column: int(f.Position().Col), Text: "route takes the call and nothing else", Hint: "def route(call):"}
	}
	return &Script{f}, nil
}

// outside is what field and set are while the text is read: there is no call yet.
func outside(name string) *starlark.Builtin {
	return starlark.NewBuiltin(name, func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kw []starlark.Tuple) (starlark.Value, error) {
		if h, ok := t.Local("host").(*host); ok {
			if name == "field" {
				return h.field(args, kw)
			}
			return h.set(args, kw)
		}
		return nil, errors.New(name + " may be used inside of route only")
	})
}

func thread(t *starlark.Thread) *starlark.Thread {
	t.Name = "script"
	t.Print = func(*starlark.Thread, string) {}
	t.SetMaxExecutionSteps(maxSteps)
	return t
}

type host struct {
	Host
	from string
	sets int
}

func (h *host) field(args starlark.Tuple, kw []starlark.Tuple) (starlark.Value, error) {
	name, line := "", h.from
	if err := starlark.UnpackArgs("field", args, kw, "name", &name, "line?", &line); err != nil {
		return nil, err
	}
	v, ok := h.Field(line, name)
	if !ok {
		return starlark.None, nil // no such line, or no such field: a plan need not ask first
	}
	return starlark.String(v), nil
}

func (h *host) set(args starlark.Tuple, kw []starlark.Tuple) (starlark.Value, error) {
	name, value, line := "", "", h.from
	if err := starlark.UnpackArgs("set", args, kw, "name", &name, "value", &value, "line?", &line); err != nil {
		return nil, err
	}
	if h.sets++; h.sets > maxSets {
		return nil, fmt.Errorf("set is called more than %d times", maxSets)
	}
	return starlark.None, h.Set(line, name, value)
}

// Run asks the function. to is a destination as rules write it, "" for the call to go on.
func (s *Script) Run(c Call, h Host) (to string, err error) {
	t := thread(&starlark.Thread{})
	t.SetLocal("host", &host{Host: h, from: c.From})
	timer := time.AfterFunc(maxTime, func() { t.Cancel("it takes too long") })
	defer timer.Stop()
	v, err := starlark.Call(t, s.route, starlark.Tuple{value(c)}, nil)
	if err != nil {
		return "", place(err)
	}
	switch v := v.(type) {
	case starlark.NoneType:
		return "", nil
	case starlark.String:
		return strings.TrimSpace(string(v)), nil
	}
	return "", &Error{Text: "route returned a " + v.Type() + ", neither a destination nor None"}
}

// value is the call as the function sees it.
func value(c Call) starlark.Value {
	text := func(s string) starlark.Value { return starlark.String(s) }
	v := starlarkstruct.FromStringDict(starlarkstruct.Default, starlark.StringDict{
		"line": text(c.From), "name": text(c.Name), "dialled": text(c.Dialled),
		"time": starlarkstruct.FromStringDict(starlarkstruct.Default, starlark.StringDict{
			"hour": starlark.MakeInt(c.Time.Hour()), "minute": starlark.MakeInt(c.Time.Minute()), "weekday": text(strings.ToLower(c.Time.Weekday().String()[:3])),
			"day": starlark.MakeInt(c.Time.Day()), "month": starlark.MakeInt(int(c.Time.Month())), "year": starlark.MakeInt(c.Time.Year()),
			"date": text(c.Time.Format(time.DateOnly)),
		}),
	})
	v.Freeze()
	return v
}

// place turns a fault of the language into an Error with its place.
func place(err error) error {
	var parse syntax.Error
	if errors.As(err, &parse) {
		return &Error{Line: int(parse.Pos.Line), Column: int(parse.Pos.Col), Text: parse.Msg, Hint: "Starlark, a small Python"}
	}
	var names resolve.ErrorList
	if errors.As(err, &names) && len(names) > 0 {
		return &Error{Line: int(names[0].Pos.Line), Column: int(names[0].Pos.Col), Text: names[0].Msg, Hint: "call, field and set are what there is"}
	}
	var run *starlark.EvalError
	if errors.As(err, &run) {
		e := &Error{Text: run.Msg}
		for i := range run.CallStack { // the innermost place in the script itself
			if at := run.CallStack.At(i).Pos; at.Filename() == "script" {
				e.Line, e.Column = int(at.Line), int(at.Col)
				break
			}
		}
		return e
	}
	return &Error{Text: err.Error()}
}
