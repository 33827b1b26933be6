"""What the audit runs inside its sandboxes. Standard library only (``SEPARATION`` also Choir's own, read-only there);
each prints one JSON value. What succeeds does no harm."""

from __future__ import annotations

ENVIRONMENTS = """
import glob, sys
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        sys.stdout.buffer.write(open(path, "rb").read())
    except OSError:
        pass
"""
"""The exception: prints every environment that can be read, as it is."""

SEARCH = """
import json, os, socket, sys
facts = json.loads(sys.argv[1])
needles = [text[::-1].encode() for text in facts["needles"]]  # handed over backwards, so as not to find itself
read, hits = 0, []
def look(path):
    global read
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return
    read += 1
    for number, needle in enumerate(needles):
        if needle in data:
            hits.append([number, path])
for top in facts["folders"]:
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if os.path.join(folder, name) not in facts["skip"]]
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                look(path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    look(f"/proc/{pid}/environ")
    look(f"/proc/{pid}/cmdline")
reached = []
for family, address in [(socket.AF_INET, ("127.0.0.1", port)) for port in facts["ports"]] + [
    (socket.AF_UNIX, "\\0" + name) for name in facts["abstract"]
]:
    with socket.socket(family) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
            reached.append(str(address).replace("\\0", "@"))
        except OSError:
            pass
print(json.dumps({"read": read, "hits": hits, "reached": reached}))
"""

NEIGHBOUR = """
import os, socket, sys, time
secret, port, name = sys.argv[1][::-1], int(sys.argv[2]), sys.argv[3]
for folder in (os.environ["HOME"], "/tmp", "/dev/shm"):
    try:
        with open(os.path.join(folder, "secret.txt"), "w") as file:
            file.write(secret)
    except OSError:
        pass
door = socket.create_server(("127.0.0.1", port))
other = socket.socket(socket.AF_UNIX)
other.bind("\\0" + name)
other.listen()
print("there", flush=True)
time.sleep(600)
"""

PROJECT = """
import json, os, sys
said = {"read": {}, "written": {}}
for path in json.loads(sys.argv[1])["read"]:
    try:
        said["read"][path] = len(open(path, "rb").read())
    except OSError as error:
        said["read"][path] = -1
for path in json.loads(sys.argv[1])["write"]:
    try:
        with open(path, "a") as file:
            file.write("written by choir verify\\n")
        said["written"][path] = True
    except OSError as error:
        said["written"][path] = False
print(json.dumps(said))
"""

SEPARATION = """
import ctypes, json, os, sys
from choir.isolation import landlock
from choir.sandbox.agent import separation
state = os.path.join(os.environ["HOME"], ".choir")
os.makedirs(state, exist_ok=True)
database = os.path.join(state, "choir.db")
open(database, "w").write("what the sandbox remembers")
if not separation.available():
    print(json.dumps({"abi": 0}))
    sys.exit()
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable: only the separation may stand in the way
parent = os.getpid()
pid = os.fork()
if pid == 0:
    if SEPARATE:
        separation.separate(state)
    got = []
    def attempt(name, act):
        try:
            act()
            got.append(name)
        except OSError:
            pass
    attempt("read its database", lambda: open(database, "rb"))
    attempt("write its database", lambda: open(database, "r+b"))
    attempt("open its memory", lambda: open(f"/proc/{parent}/mem", "r+b"))
    if landlock.abi() >= 6:
        attempt("signal it", lambda: os.kill(parent, 0))
    print(json.dumps({"abi": landlock.abi(), "got": got}))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""

MEMORY = """
import sys
held = []
for megabyte in range(0, int(sys.argv[1]), 4):
    held.append(bytearray(b"x" * (4 << 20)))
    print(megabyte + 4, flush=True)
"""

PROCESSES = """
import os, signal, sys
children = []
for number in range(int(sys.argv[1])):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        signal.pause()
        os._exit(0)
    children.append(pid)
for pid in children:
    os.kill(pid, signal.SIGKILL)
print(len(children))
"""

DISK = """
import os, sys, time
for megabyte in range(int(sys.argv[1])):
    try:
        with open(f"/home/choir/{megabyte}", "wb") as file:
            file.write(os.urandom(1 << 20))
    except OSError:
        break
    print(megabyte + 1, flush=True)
time.sleep(int(sys.argv[2]))  # until it is ended for it
"""

FAMILY = """
import os, sys, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
print("there", flush=True)
time.sleep(600)
"""

CALLS = """
import http.client, json, os, sys
said = []
for method, path, body, token in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("127.0.0.1", 7070, timeout=80)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01",
        "x-choir-sandbox-id": "01somebodyelse", "x-choir-user-id": "somebody-else"}
    if token is not None:
        headers["Authorization"] = "Bearer " + (token or os.environ["CHOIR_PROVIDER_GATEWAY_TOKEN"])
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        try:
            reason = str(json.loads(text)["error"]["reason"])[:80]
        except (ValueError, KeyError, TypeError):
            reason = ""
        said.append([answer.status, answer.getheader("x-choir-request-id"), reason])
    except (OSError, http.client.HTTPException) as error:
        said.append([0, "", type(error).__name__])
    connection.close()
print(json.dumps(said))
"""
"""A call is ``[method, path, body, token]``; token "" is the sandbox's own, null none."""
