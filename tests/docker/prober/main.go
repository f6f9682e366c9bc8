// The only file of a container image: a target (`prober sleep`), and a tracer that makes the same calls as safedlv's
// probe on one PID and prints an errno for each (`prober 7`). Static, so that it needs nothing else in the image.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	attach, detach, cont  = 16, 17, 7
	peekdata              = 2
	setoptions, getregset = 0x4200, 0x4204
	traceclone            = 8
	wall                  = 0x40000000
	ntPrstatus            = 1
	atEntry               = 9
)

var processVMReadv = map[string]uintptr{"amd64": 310, "arm64": 270}[runtime.GOARCH]

func main() {
	if os.Args[1] == "sleep" {
		for {
			time.Sleep(time.Hour)
		}
	}
	pid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	runtime.LockOSThread()
	entry := entryOf(pid)
	if threeCalls(pid) && stopAgain(pid, entry) && !refused {
		files(pid, entry)
	}
}

var refused bool // one of the three calls

func say(step string, errno syscall.Errno) bool {
	fmt.Println(step, int(errno))
	return errno == 0
}

func ptrace(request, pid int, addr, data uintptr) syscall.Errno {
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0)
	return errno
}

func threeCalls(pid int) bool {
	if !say("attach", ptrace(attach, pid, 0, 0)) {
		return false
	}
	wait(pid)
	refused = !say("setoptions", ptrace(setoptions, pid, 0, traceclone)) // Delve goes on without it
	ptrace(setoptions, pid, 0, 0)
	if !say("cont", ptrace(cont, pid, 0, 0)) {
		ptrace(detach, pid, 0, 0)
		return false
	}
	return true
}

func stopAgain(pid int, entry uintptr) bool {
	if !say("tgkill", errnoOf(syscall.Tgkill(pid, pid, syscall.SIGSTOP))) {
		return true // our end lets it go
	}
	wait(pid)
	registers := make([]byte, 4096)
	vector := syscall.Iovec{Base: &registers[0], Len: uint64(len(registers))}
	say("getregset", ptrace(getregset, pid, ntPrstatus, uintptr(unsafe.Pointer(&vector))))
	var word uintptr
	if entry != 0 {
		say("peekdata", ptrace(peekdata, pid, entry, uintptr(unsafe.Pointer(&word))))
	}
	ptrace(detach, pid, 0, 0)
	return true
}

func files(pid int, entry uintptr) {
	for _, name := range []string{"auxv", "maps", "exe", "mem"} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
		if say(name, errnoOf(err)) {
			file.Close()
		}
	}
	if entry == 0 {
		return
	}
	buffer := make([]byte, 8)
	local := syscall.Iovec{Base: &buffer[0], Len: 8}
	remote := [2]uintptr{entry, 8}
	_, _, errno := syscall.Syscall6(processVMReadv, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
	say("process_vm_readv", errno)
}

func wait(pid int) {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, wall, nil); err != nil {
		panic(err)
	}
}

func entryOf(pid int) uintptr {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return 0
	}
	for ; len(data) >= 16; data = data[16:] {
		if binary.LittleEndian.Uint64(data) == atEntry {
			return uintptr(binary.LittleEndian.Uint64(data[8:])) &^ 7
		}
	}
	return 0
}

func errnoOf(err error) syscall.Errno {
	if path, ok := err.(*os.PathError); ok {
		err = path.Err
	}
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	return 0
}
