// A small HTTP server whose greeting is written by C, in a shared library.
package main

/*
#cgo LDFLAGS: -lgreet
#include <stdlib.h>
#include "greet.h"
*/
import "C"

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"unsafe"
)

var visits int32

func greeting(path string, number int32) string {
	whom := C.CString(path)
	defer C.free(unsafe.Pointer(whom))
	text := make([]C.char, 200)
	C.greet_in_c(&text[0], C.int(len(text)), whom, C.int(number))
	answer := C.GoString(&text[0])
	return answer
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		visits++
		fmt.Fprintln(w, greeting(r.URL.Path, visits))
	})
	fmt.Printf("serving on %s\n", os.Args[1])
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
