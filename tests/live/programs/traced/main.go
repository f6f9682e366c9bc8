// A program that says "ready", and then does what it reads, a word a line: "trace FILE" begins to write a Go execution
// trace, "threads NUMBER" starts so many threads.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/trace"
	"strconv"
	"strings"
)

func main() {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "trace":
			file, err := os.Create(words[1])
			if err == nil {
				err = trace.Start(file)
			}
			fmt.Println("tracing", err)
		case "threads":
			count, _ := strconv.Atoi(words[1])
			for i := 0; i < count; i++ {
				go func() {
					runtime.LockOSThread()
					select {}
				}()
			}
			fmt.Println("started")
		}
	}
}
