package runtime

import (
	"math"
	"strings"
	"sync"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/sessions/usage"
)

// priceIn finds what a model costs in models.providers.*.models[].cost of the configuration in force.
func priceIn(current func() *config.Config) func(provider, model string) (usage.Price, bool) {
	type key struct{ provider, model string }
	var (
		mu     sync.Mutex
		of     *config.Config
		prices map[key]usage.Price
	)
	return func(provider, model string) (usage.Price, bool) {
		c := current()
		mu.Lock()
		defer mu.Unlock()
		if of != c {
			of, prices = c, map[key]usage.Price{}
			if providers := c.Section("models").Get("providers"); providers != nil {
				for _, p := range providers.Members {
					if models := p.Value.Get("models"); models != nil {
						for _, m := range models.Items {
							if price, ok := priceOf(m.Get("cost")); ok {
								prices[key{lower(p.Key), lower(stringOf(m.Get("id")))}] = price
							}
						}
					}
				}
			}
		}
		p, ok := prices[key{lower(provider), lower(model)}]
		return p, ok
	}
}

func lower(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

func stringOf(n *json5.Node) string {
	if n == nil || n.Kind != json5.String {
		return ""
	}
	return n.Str
}

// priceOf reads {input,output,cacheRead,cacheWrite}, US dollars for a million tokens; what is not there costs nothing.
func priceOf(n *json5.Node) (p usage.Price, ok bool) {
	if n == nil || n.Kind != json5.Object {
		return p, false
	}
	for name, to := range map[string]*float64{
		"input": &p.Input, "output": &p.Output, "cacheRead": &p.CacheRead, "cacheWrite": &p.CacheWrite,
	} {
		if v := n.Get(name); v != nil && v.Kind == json5.Number && v.Num >= 0 && !math.IsInf(v.Num, 0) {
			*to = v.Num
			ok = true
		}
	}
	return p, ok
}
