// What Go programs do: goroutines on many threads, the collector, files, sockets, processes, timers. Says "lives".
// Where ONCE is set, executing another program has to fail.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	if len(os.Args) > 1 {
		os.Exit(7)
	}
	var group sync.WaitGroup
	for i := 0; i < 64; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			runtime.LockOSThread()
			var kept [][]byte
			for j := 0; j < 64; j++ {
				kept = append(kept, make([]byte, 16<<10))
			}
			time.Sleep(time.Millisecond)
			runtime.KeepAlive(kept)
		}()
	}
	group.Wait()
	runtime.GC()

	check(os.WriteFile("go-file", []byte("content"), 0o644))
	text, err := os.ReadFile("go-file")
	check(err)
	check(os.MkdirAll("go/a/b", 0o755))
	check(os.RemoveAll("go"))
	check(os.Remove("go-file"))
	if string(text) != "content" {
		panic(string(text))
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	client := http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 10 * time.Second}
	response, err := client.Get("http://" + listener.Addr().String())
	check(err)
	body, err := io.ReadAll(response.Body)
	check(err)
	if string(body) != "hello" {
		panic(string(body))
	}
	_, err = net.Interfaces()
	check(err)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	<-signals

	own, err := os.Executable()
	check(err)
	err = exec.Command(own, "child").Run()
	failed, exited := err.(*exec.ExitError)
	if os.Getenv("ONCE") != "" {
		if !errors.Is(err, syscall.ENOSYS) {
			panic(fmt.Sprint("the child: ", err))
		}
	} else if !exited || failed.ExitCode() != 7 {
		panic(fmt.Sprint("the child: ", err))
	}
	fmt.Println("lives")
}
