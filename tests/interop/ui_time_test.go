//go:build unix

package interop

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

const (
	// uiRounds is how often the page is loaded from each gateway.
	uiRounds = 9
	// uiRatio is how much longer it may take from hanzod.
	uiRatio = 1.2
)

// TestControlUITime measures from the navigation to the first live data, from hanzod and from the page's own gateway in
// turn, in one browser and without a cache. INTEROP_TIME=1 makes it a test of the time.
func TestControlUITime(t *testing.T) {
	d, ours := uiDaemon(t)
	_, port, _ := theirGateway(t, token)
	base := "http://127.0.0.1:" + strconv.Itoa(port)
	p := ours.Page
	p.Go(base + "/overview#token=" + token)
	p.WaitFor(`/STATUS\s+OK/.test(document.body.innerText)`, "the page of its own gateway")
	p.Do("Network.setCacheDisabled", map[string]any{"cacheDisabled": true}, nil)
	// The page itself says when: its own clock begins with the navigation.
	p.Do("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `(() => {
		const look = () => {
			if (/STATUS\s+OK/.test(document.body?.innerText ?? '')) window.liveAfter = performance.now();
			else setTimeout(look, 2);
		};
		look();
	})()`}, nil)
	var took [2][]float64
	for range uiRounds {
		for i, base := range []string{d.URL(), base} {
			p.Go(base + "/overview")
			p.WaitFor("window.liveAfter > 0", "the first live data")
			ms, err := strconv.ParseFloat(p.Eval("window.liveAfter"), 64)
			if err != nil {
				t.Fatal(err)
			}
			took[i] = append(took[i], ms)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	a, b := took[0][uiRounds/2], took[1][uiRounds/2]
	t.Logf("first live data: hanzod %.0f ms (%.0f to %.0f), its own gateway %.0f ms (%.0f to %.0f), ratio %.2f, bar %.2f", a, took[0][0], took[0][uiRounds-1], b, took[1][0], took[1][uiRounds-1], a/b, uiRatio)
	if os.Getenv("INTEROP_TIME") != "" && a > b*uiRatio {
		t.Errorf("hanzod takes %.2f times as long, %v in the median of %d", a/b, time.Duration(a)*time.Millisecond, uiRounds)
	}
}
