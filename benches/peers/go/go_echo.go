// Go's own net: a goroutine per connection. PORT THREADS [--block-us N --block-pct P --block-way W].
//
// A request that blocks does so as a goroutine does: by time.Sleep, as it would wait for a database.
package main

import (
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

// Bytes that one read may bring: each connection has a buffer of its own.
const ownBuffer = 16 << 10

// One connection in so many blocks, of the ways that are not of all.
var oneIn = map[string]uint64{"some": 8, "bad": 64}

var (
	blockUs  = flag.Int("block-us", 0, "how long a request blocks")
	blockPct = flag.Float64("block-pct", 0, "how many of 100 requests block")
	blockWay = flag.String("block-way", "sleep", "sleep, compute, hot, some or bad")
	accepted uint64
	drawn    uint64
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: go_echo PORT THREADS [--block-us N] [--block-pct P]")
		os.Exit(2)
	}
	threads, err := strconv.Atoi(os.Args[2])
	check(err)
	check(flag.CommandLine.Parse(os.Args[3:]))
	runtime.GOMAXPROCS(threads)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	check(err)
	fmt.Printf("listening on %s\n", listener.Addr())
	for {
		connection, err := listener.Accept() // TCP_NODELAY is set by default
		check(err)
		one := oneIn[*blockWay]
		mayBlock := one == 0 || accepted%one == 0
		if one != 0 {
			accepted++
		}
		go echo(connection, mayBlock)
	}
}

// Ends with the connection, whichever way that ends.
func echo(connection net.Conn, mayBlock bool) {
	defer connection.Close()
	buffer := make([]byte, ownBuffer)
	for {
		length, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if mayBlock {
			blockIfDue()
		}
		if _, err := connection.Write(buffer[:length]); err != nil {
			return
		}
	}
}

func blockIfDue() {
	if *blockPct == 0 || *blockUs == 0 {
		return
	}
	// SplitMix64, as in the other servers.
	z := atomic.AddUint64(&drawn, 0x9e3779b97f4a7c15)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	if z ^= z >> 31; float64(z) > *blockPct/100*float64(math.MaxUint64) {
		return
	}
	span := time.Duration(*blockUs) * time.Microsecond
	if *blockWay == "compute" || *blockWay == "hot" {
		for begun := time.Now(); time.Since(begun) < span; {
		}
		return
	}
	time.Sleep(span)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
