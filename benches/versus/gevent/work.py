"""The works of BENCH.md on gevent.

work.py WORK --key value ... prints one line of JSON, like benches/work.rs. One OS thread, always.
"""

import json
import os
import resource
import socket
import sys
import time

import gevent
import gevent.socket
from gevent import queue
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer


def check(what, is_, should):
    if is_ != should:
        sys.exit(f"work.py: {what} is {is_}, not {should}")


def yields(keys):
    n, tasks = keys("n", 10_000_000), keys("tasks", 2)
    each = n // tasks

    def body():
        for _ in range(each):
            gevent.sleep(0)
        return each

    start = time.perf_counter()
    greenlets = [gevent.spawn(body) for _ in range(tasks)]
    gevent.joinall(greenlets)
    elapsed = time.perf_counter() - start
    check("yields", sum(greenlet.value for greenlet in greenlets), each * tasks)
    return elapsed * 1e9 / (each * tasks), "ns/yield", {}


def ping_pong(keys):
    n = keys("n", 4_000_000) // 2
    requests, answers = queue.Queue(1), queue.Queue(1)

    def pong():
        for request in requests:
            answers.put(request + 1)

    def ping():
        right = 0
        for i in range(n):
            requests.put(i)
            right += answers.get() == i + 1
        requests.put(StopIteration)
        return right

    start = time.perf_counter()
    greenlets = [gevent.spawn(ping), gevent.spawn(pong)]
    gevent.joinall(greenlets)
    elapsed = time.perf_counter() - start
    check("right answers", greenlets[0].value, n)
    return elapsed * 1e9 / (n * 2), "ns/message", {}


def channel(keys):
    n = keys("n", 10_000_000)
    numbers = queue.Queue(keys("cap", 128))

    def produce():
        for i in range(n):
            numbers.put(i)
        numbers.put(StopIteration)

    start = time.perf_counter()
    producer = gevent.spawn(produce)
    consumer = gevent.spawn(lambda: sum(numbers))
    gevent.joinall([producer, consumer])
    elapsed = time.perf_counter() - start
    check("sum", consumer.value, n * (n - 1) // 2)
    return n / elapsed, "messages/s", {}


def spawn_join(keys):
    n, batch = keys("n", 100_000), keys("batch", 1000)
    times = []
    for _ in range(keys("reps", 5)):
        start = time.perf_counter()
        total = 0
        for first in range(0, n, batch):
            greenlets = [gevent.spawn(lambda i: i, i) for i in range(first, min(n, first + batch))]
            gevent.joinall(greenlets)
            total += sum(greenlet.value for greenlet in greenlets)
        times.append((time.perf_counter() - start) * 1e9 / n)
        check("sum", total, n * (n - 1) // 2)
    return sorted(times)[len(times) // 2], "ns/task", {"first": times[0]}


CHILDREN = 10


def skynet(keys):
    leaves = keys("n", 1_000_000)

    def grow(parent, first, leaves):
        if leaves == 1:
            parent.put(first)
            return
        sums = queue.Queue(CHILDREN)
        each = leaves // CHILDREN
        for child in range(CHILDREN):
            gevent.spawn(grow, sums, first + child * each, each)
        parent.put(sum(sums.get() for _ in range(CHILDREN)))

    root = queue.Queue(1)
    start = time.perf_counter()
    gevent.spawn(grow, root, 0, leaves)
    total = root.get()
    elapsed = time.perf_counter() - start
    check("sum", total, leaves * (leaves - 1) // 2)
    return elapsed * 1e9 / ((leaves * CHILDREN - 1) // (CHILDREN - 1)), "ns/task", {}


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def idle_mem(keys):
    n = keys("n", 100_000)
    started = 0

    def body():
        nonlocal started
        started += 1
        gevent.sleep(3600)

    before = resident()
    greenlets = [gevent.spawn(body) for _ in range(n)]
    while started < n:
        gevent.sleep(0)
    return (resident() - before) / len(greenlets), "bytes/task", {}


def random_sleeps(n, max_ms):
    mask, state = (1 << 64) - 1, 42
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield ((z ^ (z >> 31)) % (max_ms * 1_000_000)) / 1e9


def cpu_ms():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e3


def timers(keys):
    sleeps = list(random_sleeps(keys("n", 100_000), keys("max-ms", 1000)))

    def body(seconds):
        begin = time.perf_counter()
        gevent.sleep(seconds)
        return time.perf_counter() - begin >= seconds

    cpu, start = cpu_ms(), time.perf_counter()
    greenlets = [gevent.spawn(body, seconds) for seconds in sleeps]
    gevent.joinall(greenlets)
    beyond = (time.perf_counter() - start - max(sleeps)) * 1e3
    used = cpu_ms() - cpu
    check("sleeps", sum(greenlet.value for greenlet in greenlets), len(sleeps))
    return beyond, "ms", {"cpu_ms": round(used)}


def address(keys):
    host, port = keys.text("addr", "127.0.0.1:7000").rsplit(":", 1)
    return host, int(port)


def echo(keys):
    def handle(connection, _):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            data = connection.recv(4096)
            if not data:
                return
            connection.sendall(data)

    StreamServer(address(keys), handle, backlog=4096).serve_forever()


def http(keys):
    """gevent's own WSGI server; it sends the date too."""

    def application(environ, start_response):
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"] != "/":
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
        return [b"Hello, World!"]

    # The server writes the head and the body apart, so that without TCP_NODELAY each answer waits 40 ms for the client's delayed
    # acknowledgement. Accepted sockets inherit the option.
    listener = gevent.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(address(keys))
    listener.listen(4096)
    WSGIServer(listener, application, log=None).serve_forever()


class Keys:
    def __init__(self, args):
        self.pairs = {key.removeprefix("--"): value for key, value in zip(args[::2], args[1::2])}

    def text(self, key, default):
        return self.pairs.get(key, default)

    def __call__(self, key, default):
        return int(self.pairs.get(key, default))


WORKS = {
    "yield": yields,
    "pingpong": ping_pong,
    "channel": channel,
    "spawn_join": spawn_join,
    "skynet": skynet,
    "idle_mem": idle_mem,
    "timers": timers,
    "echo": echo,
    "http": http,
}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in WORKS:
        sys.exit("work.py: which work? " + " ".join(WORKS))
    value, unit, more = WORKS[sys.argv[1]](Keys(sys.argv[2:]))
    print(json.dumps({"work": sys.argv[1], "value": round(value, 3), "unit": unit, **more}), flush=True)
    # A hundred thousand sleeping greenlets need not be unwound.
    os._exit(0)


main()
