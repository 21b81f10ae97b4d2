package approvals

import "testing"

// TestTunnelCall: an approval of tunnel.open covers the host and the port, whatever the gateway calls the target, and
// its questions do not show the name of the carrier, which is a secret.
func TestTunnelCall(t *testing.T) {
	read := func(params string) call {
		c, err := readCall("tunnel.open", []byte(params))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, same := read(`{"id":1,"host":"127.0.0.1","port":80,"carrier":"secret"}`), read(`{"port":80,"id":2,"host":"127.0.0.1"}`)
	if one.digest != same.digest {
		t.Error("another id is another call")
	}
	if got := one.argv; len(got) != 2 || got[1] != `{"host":"127.0.0.1","port":80}` {
		t.Errorf("%q", got)
	}
	for _, other := range []string{`{"id":1,"host":"127.0.0.1","port":81}`, `{"id":1,"host":"localhost","port":80}`, `{"id":1,"host":"127.0.0.1","port":80,"agentId":"x"}`} {
		if read(other).digest == one.digest {
			t.Errorf("%s is the same call", other)
		}
	}
	if text := string(one.send(true)); text != `{"id":1,"host":"127.0.0.1","port":80,"carrier":"secret","approved":true}` {
		t.Errorf("the node gets %s", text)
	}
}
