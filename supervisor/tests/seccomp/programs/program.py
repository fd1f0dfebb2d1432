"""What Python programs do: modules, threads, processes, files, sockets, asyncio, a database. Says `lives`.

Where ONCE is set, executing another program has to fail.
"""

import asyncio
import ctypes
import errno
import hashlib
import json
import mmap
import multiprocessing
import os
import queue
import random
import resource
import select
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

assert json.loads(json.dumps({"a": [1, 2.5, None]})) == {"a": [1, 2.5, None]}
ssl.create_default_context()
assert len(os.urandom(16)) == 16 and hashlib.sha256(b"x").hexdigest() and zlib.compress(b"x")
ctypes.CDLL(None).getpid()

with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
with tempfile.TemporaryDirectory(dir=".") as folder:
    path = os.path.join(folder, "file")
    with open(path, "wb+") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
        with mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[:] == b"content"
    database = sqlite3.connect(os.path.join(folder, "database"))
    database.execute("create table t (x)")
    with database:
        database.executemany("insert into t values (?)", [(n,) for n in range(100)])
    assert database.execute("select sum(x) from t").fetchone() == (4950,)
    database.close()


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Hello)
threading.Thread(target=server.serve_forever, daemon=True).start()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
assert opener.open(f"http://127.0.0.1:{server.server_port}", timeout=10).read() == b"hello"
server.shutdown()
socket.getaddrinfo("localhost", 80)


async def several():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('child')", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    await asyncio.sleep(0.001)
    return out


def executes(attempt):
    """Whether a program was executed; the kernel's answer otherwise is that it cannot do that."""
    try:
        attempt()
    except OSError as error:
        assert error.errno == errno.ENOSYS, error
        return False
    return True


ONCE = "ONCE" in os.environ
if ONCE:
    assert not executes(lambda: asyncio.run(several()))
else:
    assert asyncio.run(several()) == b"child\n"
signal.signal(signal.SIGUSR1, lambda *_: None)
os.kill(os.getpid(), signal.SIGUSR1)
assert resource.getrlimit(resource.RLIMIT_NOFILE)


def square(n):
    return n * n


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    assert executes(lambda: subprocess.run(["/bin/sh", "-c", "exit 3"])) != ONCE
    print("lives", flush=True)
