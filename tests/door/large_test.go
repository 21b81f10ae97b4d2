package door

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// A hundred questions of the largest size are listed by every door: long texts are cut and marked, and
// each one is there in full when it is asked for.
func TestLargeApprovals(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	const n = 100
	node, host := "box", "node"
	long := strings.Repeat("x", 250<<10)
	for i := range n {
		id := fmt.Sprint("q", i)
		if _, err := c.Approvals.RequestApproval(t.Context(), &approvalsv1.RequestApprovalRequest{
			Id: id, Command: "x", CommandArgv: []string{"/bin/echo"}, NodeId: &node, Host: &host,
			Plan: &approvalsv1.Plan{Argv: []string{"/bin/echo", id, long}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, all := range []bool{false, true} {
		list, err := c.Approvals.ListApprovals(t.Context(), &approvalsv1.ListApprovalsRequest{All: all})
		if err != nil || len(list.GetApprovals()) != n {
			t.Fatalf("%d listed: %v", len(list.GetApprovals()), err)
		}
		for _, a := range list.GetApprovals() {
			if !a.GetCut() || len(a.GetCommand()) > 2<<10 || a.GetCommandArgv()[1] != a.GetId() {
				t.Fatalf("%s: cut %v, %d bytes, %q", a.GetId(), a.GetCut(), len(a.GetCommand()), a.GetCommandArgv()[:2])
			}
		}
	}
	one, err := c.Approvals.GetApproval(t.Context(), &approvalsv1.GetApprovalRequest{Id: "q7"})
	if a := one.GetApproval(); err != nil || a.GetCut() || len(a.GetBinding().GetArgv()) != 3 || a.GetBinding().GetArgv()[2] != long {
		t.Errorf("%v, cut %v", err, a.GetCut())
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL()+"/v1/approvals", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || strings.Count(string(text), `"cut":true`) != n || len(text) > 2<<20 {
		t.Errorf("by REST: %s, %d bytes, %v", res.Status, len(text), err)
	}
	// A watcher gets them one by one, whole: what may run is shown in full.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := c.Approvals.WatchApprovals(ctx, &approvalsv1.WatchApprovalsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		got, err := w.Recv()
		if err != nil || got.GetApproval().GetCut() || len(got.GetApproval().GetBinding().GetArgv()[2]) != len(long) {
			t.Fatalf("%d: %v", i, err)
		}
	}
}
