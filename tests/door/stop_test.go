package door

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// TestStopWithStrangers: connections that do not finish their handshake do not hold up a stop.
func TestStopWithStrangers(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true, TLS: true})
	for _, to := range [][2]string{{"unix", d.Socket()}, {"tcp", d.GRPCAddress()}, {"tcp", d.Addr()}} {
		c, err := net.Dial(to[0], to[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := tls.Dial("tcp", d.GRPCAddress(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(50 * time.Millisecond) // they are accepted
	began := time.Now()
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
