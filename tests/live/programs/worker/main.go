// A program that is busy on several threads and checks its own results: it prints how many it has, and how many are
// wrong. Usage: worker [GOROUTINES]
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

const expected = 5050

var done, wrong int64

//go:noinline
func work(n int) int {
	total := 0
	for i := 1; i <= n; i++ {
		total += i
	}
	return total
}

//go:noinline
func never() {
	fmt.Println("never")
}

func worker(pause time.Duration, own bool) {
	if own { // a thread for each
		runtime.LockOSThread()
	}
	for {
		if work(100) != expected {
			atomic.AddInt64(&wrong, 1)
		}
		atomic.AddInt64(&done, 1)
		time.Sleep(pause)
	}
}

func main() {
	count := 4
	if len(os.Args) > 1 {
		count, _ = strconv.Atoi(os.Args[1])
	}
	if count < 0 {
		never()
	}
	for i := 0; i < count; i++ {
		go worker(time.Duration(count)*250*time.Microsecond, count > 10)
	}
	for {
		time.Sleep(20 * time.Millisecond)
		fmt.Println(atomic.LoadInt64(&done), atomic.LoadInt64(&wrong))
	}
}
