package pki

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/smallstep/nosql/database"
)

func TestTable(t *testing.T) {
	state := newMemory()
	d := &table{state: state}
	odd := []byte{0, '/', 0xff, 'x'}
	b := []byte("things")
	if _, err := d.Get(b, odd); !database.IsErrNotFound(err) {
		t.Errorf("missing row: %v", err)
	}
	for _, k := range [][]byte{odd, []byte("plain-1.2_3"), []byte("~6f"), []byte("a b"), {}} {
		if err := d.Set(b, k, append([]byte("v"), k...)); err != nil {
			t.Fatal(err)
		}
		v, err := d.Get(b, k)
		if err != nil || !bytes.Equal(v, append([]byte("v"), k...)) {
			t.Errorf("row %q: %q, %v", k, v, err)
		}
	}
	rows, err := d.List(b)
	if err != nil || len(rows) != 5 {
		t.Fatalf("%d rows, %v; want 5", len(rows), err)
	}
	for _, r := range rows {
		if !bytes.Equal(r.Value, append([]byte("v"), r.Key...)) {
			t.Errorf("row %q holds %q", r.Key, r.Value)
		}
	}
	for k := range state.m {
		if strings.Count(k, "/") != 3 || !strings.HasPrefix(k, "pki/db/things/") {
			t.Errorf("field %q", k)
		}
	}
	if err := d.Del(b, odd); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(b, odd); !database.IsErrNotFound(err) {
		t.Errorf("deleted row: %v", err)
	}
	if err := d.DeleteTable(b); err != nil {
		t.Fatal(err)
	}
	if rows, _ := d.List(b); len(rows) != 0 || len(state.m) != 0 {
		t.Errorf("%d rows after the table was deleted", len(rows))
	}
}

func TestTableCompareAndSwap(t *testing.T) {
	d := &table{state: newMemory()}
	b, k := []byte("things"), []byte("k")
	for i, tc := range []struct {
		old, new string
		swapped  bool
		value    string
	}{
		{"x", "1", false, ""}, {"", "1", true, "1"}, {"", "2", false, "1"}, {"1", "2", true, "2"}, {"1", "3", false, "2"},
	} {
		v, ok, err := d.CmpAndSwap(b, k, []byte(tc.old), []byte(tc.new))
		if err != nil || ok != tc.swapped || string(v) != tc.value {
			t.Errorf("%d: got %q, %v, %v; want %q, %v", i, v, ok, err, tc.value, tc.swapped)
		}
	}
	// Of many at once one wins.
	won := make(chan int, 50)
	for i := range 50 {
		go func() { // ends with its write
			_, ok, err := d.CmpAndSwap(b, []byte("race"), nil, fmt.Append(nil, i))
			if err != nil || !ok {
				i = -1
			}
			won <- i
		}()
	}
	var winners []int
	for range 50 {
		if i := <-won; i >= 0 {
			winners = append(winners, i)
		}
	}
	if v, err := d.Get(b, []byte("race")); len(winners) != 1 || err != nil || string(v) != fmt.Sprint(winners[0]) {
		t.Errorf("winners %v, value %q, %v", winners, v, err)
	}
}

func TestTableUpdateIsOneGroup(t *testing.T) {
	state := newMemory()
	d := &table{state: state}
	b := []byte("things")
	if err := d.Set(b, []byte("a"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	tx := new(database.Tx)
	tx.Get(b, []byte("a"))
	tx.Set(b, []byte("b"), []byte("2"))
	tx.Del(b, []byte("a"))
	tx.Operations = append(tx.Operations,
		&database.TxEntry{Bucket: b, Key: []byte("c"), Value: []byte("3"), Cmd: database.CmpAndSwap},
		&database.TxEntry{Bucket: b, Key: []byte("a"), CmpValue: []byte("9"), Value: []byte("3"), Cmd: database.CmpAndSwap})
	if err := d.Update(tx); err != nil {
		t.Fatal(err)
	}
	if state.groups != 2 {
		t.Errorf("%d groups, want 2", state.groups)
	}
	if ops := tx.Operations; string(ops[0].Result) != "1" || !ops[3].Swapped || ops[4].Swapped || string(ops[4].Result) != "1" {
		t.Errorf("results %q, %v, %v", ops[0].Result, ops[3].Swapped, ops[4].Swapped)
	}
	rows, err := d.List(b)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, string(r.Key)+"="+string(r.Value))
	}
	if want := []string{"b=2", "c=3"}; !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
	tx = new(database.Tx) // the last command about a row counts
	tx.Del(b, []byte("b"))
	tx.Set(b, []byte("b"), []byte("5"))
	tx.Set(b, []byte("c"), []byte("6"))
	tx.Del(b, []byte("c"))
	if err := d.Update(tx); err != nil {
		t.Fatal(err)
	}
	if rows, err := d.List(b); err != nil || len(rows) != 1 || string(rows[0].Value) != "5" {
		t.Errorf("rows %v, %v; want b=5", rows, err)
	}
	groups := state.groups
	tx = new(database.Tx)
	tx.Set(b, []byte("d"), []byte("4"))
	tx.Get(b, []byte("missing"))
	if err := d.Update(tx); !database.IsErrNotFound(err) || state.groups != groups {
		t.Errorf("a group that reads a missing row: %v, %d writes", err, state.groups-groups)
	}
	tx = new(database.Tx)
	tx.Cmp(b, []byte("b"), []byte("2"))
	if err := d.Update(tx); !database.IsErrOpNotSupported(err) {
		t.Errorf("unsupported command: %v", err)
	}
}

var _ database.DB = (*table)(nil)
