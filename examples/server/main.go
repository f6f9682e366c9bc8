// A small HTTP server to attach to: every request builds a greeting from a visit.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

// Visit is what one request is about.
type Visit struct {
	Path   string
	Number int64
	Tags   []string
}

var visits atomic.Int64

func greeting(v Visit) string {
	text := fmt.Sprintf("hello %s, you are visitor %d", v.Path, v.Number)
	return text
}

func serve(w http.ResponseWriter, r *http.Request) {
	visit := Visit{Path: r.URL.Path, Number: visits.Add(1), Tags: []string{r.Method, r.Proto}}
	answer := greeting(visit)
	fmt.Fprintln(w, answer)
}

func main() {
	address := "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("serving on %s\n", listener.Addr())
	http.HandleFunc("/", serve)
	log.Fatal(http.Serve(listener, nil))
}
