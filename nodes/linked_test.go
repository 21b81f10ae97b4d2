package nodes

import (
	"testing"

	"github.com/hanzoai/hanzod/events"
)

// TestMode: a technician session shows in its node and is told once, and ends with the link.
func TestMode(t *testing.T) {
	s := newService()
	var told []Node
	s.bus.Sink(func(e events.Event) {
		if e.Name == "node.mode" {
			told = append(told, e.Payload.(Changed).Node)
		}
	})
	s.SetSession("n1", "early") // it is not linked
	if _, ok := s.Ended("n1"); ok {
		t.Error("a link that is not there ends")
	}
	a := s.attach(t, "n1", &link{})
	ended, ok := s.Ended("n1")
	if !ok {
		t.Fatal("no link")
	}
	s.SetSession("n1", "s1")
	s.SetSession("n1", "s1")
	out, err := s.Describe(t.Context(), operator, DescribeIn{NodeID: "n1"})
	if err != nil || out.Node.Session != "s1" || len(told) != 1 || told[0].Session != "s1" || told[0].ID != "n1" {
		t.Fatalf("%+v, %v; told %+v", out.Node, err, told)
	}
	s.SetSession("n1", "")
	if len(told) != 2 || told[1].Session != "" {
		t.Errorf("told %+v", told)
	}
	s.SetSession("n1", "s2")
	select {
	case <-ended:
		t.Error("the link has ended")
	default:
	}
	a.Detach()
	<-ended
	b := s.attach(t, "n1", &link{})
	defer b.Detach()
	if out, err := s.Describe(t.Context(), operator, DescribeIn{NodeID: "n1"}); err != nil || out.Node.Session != "" {
		t.Errorf("%+v, %v", out.Node, err)
	}
	// A newer link ends the one before it.
	ended, _ = s.Ended("n1")
	c := s.attach(t, "n1", &link{})
	defer c.Detach()
	<-ended
}
