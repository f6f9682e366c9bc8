//go:build cgo

package main

// static int add(int a, int b) { return a + b; }
import "C"

func init() {
	if C.add(1, 2) != 3 {
		panic("C cannot add")
	}
}
