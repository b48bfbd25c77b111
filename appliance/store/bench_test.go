package store

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
)

func BenchmarkWriteParallel(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			s := open(b, b.TempDir())
			value := bytes.Repeat([]byte("v"), 100)
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; i < b.N; i += writers {
						if err := s.Write(context.Background(), map[string][]byte{fmt.Sprintf("fwd/%d/all", i%5000): value}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(float64(s.Stats().Groups)/float64(s.Stats().Commits), "groups/fsync")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b, b.TempDir())
	group := map[string]string{}
	for i := range 4000 {
		group[fmt.Sprintf("fwd/%d/all", i)] = "v"
	}
	write(b, s, group)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := s.Get(fmt.Sprintf("fwd/%d/all", i%4000)); !ok {
				b.Error("absent")
			}
		}
	})
}

// BenchmarkOpen is the price of reading every record at the start.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	for g := range 25 {
		group := map[string][]byte{}
		for i := range MaxGroup {
			group[fmt.Sprintf("fwd/%d/all", g*MaxGroup+i)] = make([]byte, 100)
		}
		if err := s.Write(context.Background(), group); err != nil {
			b.Fatal(err)
		}
	}
	bytes := s.Stats().Bytes
	s.Close()
	b.SetBytes(bytes)
	for b.Loop() {
		s, err := Open(Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
