package gate

// Callers is how many callers are counted.
func (g *Gate) Callers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.windows)
}
