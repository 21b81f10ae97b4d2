package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// longest bounds every figure.
const longest = time.Minute

func dial(port int) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", at(port), 10*time.Second)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(longest))
}

// upload sends on n connections and returns bytes a second, as the target counts them, and those of each.
func upload(w *way, n int, d time.Duration) (total float64, each []float64, err error) {
	return move(w.Sink, n, d, func(c net.Conn, count *atomic.Int64) {
		go func() {
			b := make([]byte, 256<<10)
			for {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
		var told [8]byte
		for {
			if _, err := io.ReadFull(c, told[:]); err != nil {
				return
			}
			count.Store(int64(binary.BigEndian.Uint64(told[:])))
		}
	})
}

// download receives on n connections.
func download(w *way, n int, d time.Duration) (total float64, each []float64, err error) {
	return move(w.Source, n, d, func(c net.Conn, count *atomic.Int64) {
		b := make([]byte, 256<<10)
		for {
			m, err := c.Read(b)
			count.Add(int64(m))
			if err != nil {
				return
			}
		}
	})
}

// move counts for a time what n connections to a port count, once they are warm.
func move(port, n int, d time.Duration, one func(net.Conn, *atomic.Int64)) (total float64, each []float64, err error) {
	counts := make([]atomic.Int64, n)
	for i := range n {
		c, err := dial(port)
		if err != nil {
			return 0, nil, err
		}
		defer c.Close()
		go one(c, &counts[i])
	}
	<-time.After(d / 4)
	first := make([]int64, n)
	began := time.Now()
	for i := range counts {
		first[i] = counts[i].Load()
	}
	<-time.After(d)
	took := time.Since(began).Seconds()
	for i := range counts {
		each = append(each, float64(counts[i].Load()-first[i])/took)
		total += each[i]
	}
	if total == 0 {
		return 0, nil, fmt.Errorf("nothing moves")
	}
	return total, each, nil
}

func median[T cmp.Ordered](d []T) T {
	slices.Sort(d)
	return d[len(d)/2]
}

// roundTrip is the median of one byte there and back on a connection that is open.
func roundTrip(w *way) (time.Duration, error) {
	c, err := dial(w.Echo)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, 1)
	var took []time.Duration
	for i := range 1200 {
		began := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		if i >= 200 {
			took = append(took, time.Since(began))
		}
	}
	return median(took), nil
}

// firstByte is the median of connecting and one byte there and back.
func firstByte(w *way) (time.Duration, error) {
	var took []time.Duration
	b := make([]byte, 1)
	for range 50 {
		began := time.Now()
		c, err := dial(w.Echo)
		if err != nil {
			return 0, err
		}
		_, err = c.Write(b)
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		took = append(took, time.Since(began))
		_ = c.Close()
		if err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

// requests is HTTP requests a second with n in flight, how many failed, and the median of one.
func requests(ctx context.Context, w *way, n int, d time.Duration) (rate float64, failed int64, p50 time.Duration, err error) {
	tr := &http.Transport{MaxIdleConnsPerHost: n, MaxIdleConns: n}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	var done, bad atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	began := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var own []time.Duration
			for time.Since(began) < d {
				at := time.Now()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", w.HTTP), http.NoBody)
				if err == nil {
					var resp *http.Response
					if resp, err = c.Do(req); err == nil {
						var b []byte
						b, err = io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "hello") {
							err = fmt.Errorf("%s: %.100s", resp.Status, b)
						}
					}
				}
				if err != nil {
					bad.Add(1)
					continue
				}
				own = append(own, time.Since(at))
				done.Add(1)
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(took) == 0 {
		return 0, bad.Load(), 0, fmt.Errorf("no request was answered")
	}
	return float64(done.Load()) / time.Since(began).Seconds(), bad.Load(), median(took), nil
}

// fairness has 100 connections download, without and with one more that nobody reads. It returns both rates, and
// the least and the most that one of the 100 got in the second, as parts of the mean.
func fairness(w *way, d time.Duration) (alone, beside, least, most float64, err error) {
	const n = 100
	if alone, _, err = download(w, n, d); err != nil {
		return alone, beside, least, most, err
	}
	stalled, err := dial(w.Source)
	if err != nil {
		return alone, beside, least, most, err
	}
	defer stalled.Close()
	<-time.After(d / 4)
	beside, each, err := download(w, n, 3*d)
	if err != nil {
		return alone, beside, least, most, err
	}
	mean := beside / n
	return alone, beside, slices.Min(each) / mean, slices.Max(each) / mean, nil
}

// idle opens n connections, sends a byte there and back on each, and returns how many bytes of memory one of them
// takes in the daemon and in the client.
func idle(w *way, n int) (daemon, client int64, err error) {
	d0, c0 := w.daemon.resident(), w.client.resident()
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	b := make([]byte, 1)
	for i := range conns {
		c, err := dial(w.Echo)
		if err != nil {
			return 0, 0, fmt.Errorf("connection %d: %w", i, err)
		}
		conns[i] = c
		if _, err = c.Write(b); err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return (w.daemon.resident() - d0) / int64(n), (w.client.resident() - c0) / int64(n), nil
}
