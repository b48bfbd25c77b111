package config

// nearest returns the name that differs from s by the fewest typing mistakes, or "" if none is near.
func nearest(s string, names []string) string {
	best, limit := "", max(1, min(len(s)/2, 3))
	for _, name := range names {
		if d := distance(s, name, limit); d <= limit && (best == "" || d < limit) {
			best, limit = name, d
		}
	}
	return best
}

// distance counts inserted, dropped, changed and swapped letters; it gives up above limit.
func distance(a, b string, limit int) int {
	if len(a) > 64 || len(b) > 64 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev = prev, cur
	}
	return prev[len(b)]
}
