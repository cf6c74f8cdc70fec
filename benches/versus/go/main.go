// The works of BENCH.md in Go, with its standard library alone.
//
// versus-go WORK --threads T --key value ... prints one line of JSON, like benches/work.rs. --threads is GOMAXPROCS.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type keys map[string]string

func (k keys) number(key string, or int) int {
	text, ok := k[key]
	if !ok {
		return or
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		fail("--" + key + " needs a number")
	}
	return n
}

func (k keys) addr() string {
	if addr, ok := k["addr"]; ok {
		return addr
	}
	return "127.0.0.1:7000"
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "versus-go:", why)
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 {
		fail("which work?")
	}
	work, k := os.Args[1], keys{}
	for i := 2; i+1 < len(os.Args); i += 2 {
		k[strings.TrimPrefix(os.Args[i], "--")] = os.Args[i+1]
	}
	runtime.GOMAXPROCS(k.number("threads", 1))
	works := map[string]func(keys) (float64, string){
		"yield": yield, "pingpong": pingPong, "channel": channel, "spawn_join": spawnJoin, "skynet": skynet,
		"idle_mem": idleMem, "timers": timers, "echo": echo, "http": serveHTTP,
	}
	run, ok := works[work]
	if !ok {
		fail("no such workload: " + work)
	}
	value, unit := run(k)
	fmt.Printf("{\"work\": %q, \"value\": %.3f, \"unit\": %s}\n", work, value, unit)
}

func check(what string, is, should int) {
	if is != should {
		fail(fmt.Sprintf("%s is %d, not %d", what, is, should))
	}
}

func per(elapsed time.Duration, n int) float64 { return float64(elapsed.Nanoseconds()) / float64(n) }

func yield(k keys) (float64, string) {
	n, tasks := k.number("n", 10_000_000), k.number("tasks", 2)
	each := n / tasks
	counts := make([]int, tasks)
	var all sync.WaitGroup
	start := time.Now()
	for t := 0; t < tasks; t++ {
		all.Add(1)
		go func(count *int) {
			defer all.Done()
			done := 0
			for i := 0; i < each; i++ {
				runtime.Gosched()
				done++
			}
			*count = done
		}(&counts[t])
	}
	all.Wait()
	elapsed := time.Since(start)
	sum := 0
	for _, count := range counts {
		sum += count
	}
	check("yields", sum, each*tasks)
	return per(elapsed, each*tasks), `"ns/yield"`
}

func pingPong(k keys) (float64, string) {
	n := k.number("n", 4_000_000) / 2
	requests, answers := make(chan int, 1), make(chan int, 1)
	start := time.Now()
	go func() {
		for request := range requests {
			answers <- request + 1
		}
	}()
	right := 0
	for i := 0; i < n; i++ {
		requests <- i
		if <-answers == i+1 {
			right++
		}
	}
	elapsed := time.Since(start)
	close(requests)
	check("right answers", right, n)
	return per(elapsed, n*2), `"ns/message"`
}

func channel(k keys) (float64, string) {
	n := k.number("n", 10_000_000)
	numbers := make(chan int, k.number("cap", 128))
	start := time.Now()
	go func() {
		for i := 0; i < n; i++ {
			numbers <- i
		}
		close(numbers)
	}()
	sum := 0
	for i := range numbers {
		sum += i
	}
	elapsed := time.Since(start)
	check("sum", sum, n*(n-1)/2)
	return float64(n) / elapsed.Seconds(), `"messages/s"`
}

// A goroutine cannot be joined: each writes its number to its place, and a WaitGroup counts them.
func spawnJoin(k keys) (float64, string) {
	n, batch := k.number("n", 100_000), k.number("batch", 1000)
	var times []float64
	for rep := 0; rep < k.number("reps", 5); rep++ {
		start := time.Now()
		sum := 0
		for next := 0; next < n; next += batch {
			end := next + batch
			if end > n {
				end = n
			}
			results := make([]int, end-next)
			var all sync.WaitGroup
			all.Add(end - next)
			for i := next; i < end; i++ {
				go func(i int, result *int) {
					*result = i
					all.Done()
				}(i, &results[i-next])
			}
			all.Wait()
			for _, result := range results {
				sum += result
			}
		}
		times = append(times, per(time.Since(start), n))
		check("sum", sum, n*(n-1)/2)
	}
	sort.Float64s(times)
	return times[len(times)/2], `"ns/task"`
}

const children = 10

func skynet(k keys) (float64, string) {
	leaves := k.number("n", 1_000_000)
	root := make(chan int, 1)
	start := time.Now()
	go grow(root, 0, leaves)
	sum := <-root
	elapsed := time.Since(start)
	check("sum", sum, leaves*(leaves-1)/2)
	return per(elapsed, (leaves*children-1)/(children-1)), `"ns/task"`
}

func grow(parent chan<- int, first, leaves int) {
	if leaves == 1 {
		parent <- first
		return
	}
	sums := make(chan int, children)
	each := leaves / children
	for child := 0; child < children; child++ {
		go grow(sums, first+child*each, each)
	}
	sum := 0
	for child := 0; child < children; child++ {
		sum += <-sums
	}
	parent <- sum
}

func resident() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmRSS:") {
			kib, _ := strconv.ParseFloat(strings.Fields(line)[1], 64)
			return kib * 1024
		}
	}
	return 0
}

func idleMem(k keys) (float64, string) {
	n := k.number("n", 100_000)
	forever := make(chan struct{})
	var started sync.WaitGroup
	started.Add(n)
	before := resident()
	for i := 0; i < n; i++ {
		go func() {
			started.Done()
			<-forever
		}()
	}
	started.Wait()
	bytes := (resident() - before) / float64(n)
	close(forever)
	return bytes, `"bytes/task"`
}

func cpuMS() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		fail(err.Error())
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e6
}

func timers(k keys) (float64, string) {
	n, max := k.number("n", 100_000), uint64(k.number("max-ms", 1000))*1_000_000
	state := uint64(42)
	splitmix64 := func() uint64 {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb
		return z ^ (z >> 31)
	}
	sleeps := make([]time.Duration, n)
	longest := time.Duration(0)
	for i := range sleeps {
		sleeps[i] = time.Duration(splitmix64() % max)
		if sleeps[i] > longest {
			longest = sleeps[i]
		}
	}
	enough := make([]bool, n)
	var all sync.WaitGroup
	all.Add(n)
	cpu, start := cpuMS(), time.Now()
	for i := range sleeps {
		go func(i int) {
			begin := time.Now()
			time.Sleep(sleeps[i])
			enough[i] = time.Since(begin) >= sleeps[i]
			all.Done()
		}(i)
	}
	all.Wait()
	beyond := (time.Since(start) - longest).Seconds() * 1000
	used := cpuMS() - cpu
	slept := 0
	for _, ok := range enough {
		if ok {
			slept++
		}
	}
	check("sleeps that were long enough", slept, n)
	return beyond, fmt.Sprintf(`"ms", "cpu_ms": %.0f`, used)
}

// A TCP connection of Go has TCP_NODELAY by itself.
func echo(k keys) (float64, string) {
	listener, err := net.Listen("tcp", k.addr())
	if err != nil {
		fail(err.Error())
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail(err.Error())
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 4096)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				if _, err := conn.Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// net/http, as anyone would; it sends the date too.
func serveHTTP(k keys) (float64, string) {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "Hello, World!")
	})
	fail(http.ListenAndServe(k.addr(), nil).Error())
	return 0, ""
}
