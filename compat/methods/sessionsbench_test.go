package methods

import (
	"fmt"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/sessions"
)

func listed(n int) sessions.ListOut {
	out := sessions.ListOut{At: time.Now(), Path: sessions.ManyStores, Default: sessions.Model{Provider: "anthropic", Name: "claude-opus-4-6"}, ContextTokens: 200_000}
	tokens, yes := int64(1000), true
	for i := range n {
		e := sessions.Entry{
			SessionID: fmt.Sprintf("0189c0de-0000-4000-8000-%012d", i), UpdatedAt: time.Now(), ChatType: "direct", SystemSent: &yes, ThinkingLevel: "low",
			InputTokens: &tokens, OutputTokens: &tokens, TotalTokens: &tokens, TotalTokensFresh: &yes, ContextTokens: &tokens, Channel: "telegram",
			Origin: &sessions.Origin{Label: "Somebody", Provider: "telegram", From: "telegram:1"}, LastChannel: "telegram", LastTo: "telegram:1",
		}
		out.Sessions = append(out.Sessions, sessions.Listed{
			Row: &sessions.Row{Ref: sessions.Ref{AgentID: "main", Key: fmt.Sprintf("agent:main:telegram:direct:%d", i)}, Entry: e}, Kind: "direct", Name: "Somebody",
			Channel: "telegram", Model: out.Default, Delivery: &sessions.Delivery{Channel: "telegram", To: "telegram:1"},
		})
	}
	return out
}

// BenchmarkSessionsList writes 1,000 sessions (P23).
func BenchmarkSessionsList(b *testing.B) {
	out := listed(1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.Marshal(SessionsListToLegacy(out)); err != nil {
			b.Fatal(err)
		}
	}
}
