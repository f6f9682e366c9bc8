// dlv-launcher becomes the script dlv that lies beside it.
//
// VS Code's Go extension asks `go version -m` which Go built its dlv. A script has no answer to that, and the extension
// then says at every start that dlv needs recompiling (goInstallTools.ts: listOutdatedTools). This program has one:
//
//	go build -C shims/launcher -buildvcs=false -o ../dlv-launcher
//
// and then "go.alternateTools": {"dlv": ".../shims/dlv-launcher"}. Build it again with each newer Go, as the extension
// wants of every tool.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

func main() {
	self, err := os.Executable() // symbolic links resolved (proc(5): /proc/self/exe)
	if err != nil {
		end(err)
	}
	script := filepath.Join(filepath.Dir(self), "dlv")
	if script == self {
		end(fmt.Errorf("%s must have another name than the script dlv beside it", self))
	}
	end(fmt.Errorf("%s: %w", script, syscall.Exec(script, append([]string{script}, os.Args[1:]...), os.Environ())))
}

func end(err error) {
	fmt.Fprintln(os.Stderr, "safedlv:", err)
	os.Exit(127)
}
