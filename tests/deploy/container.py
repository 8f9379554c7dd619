"""Checks the Dockerfile without Docker: container.py DOCKERFILE THROUGHLINE DIRECTORY

Makes the last stage's file system in DIRECTORY as its lines say, with THROUGHLINE as what the build makes and this
machine's libraries in place of the base image's, and runs the program in it as the user that it names: the reference
server by default, and the gateway in front of it as deploy/azure sets it up. Root uses chroot; others have a user
namespace, in which files belong to nobody in particular.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

dockerfile, program, root = Path(sys.argv[1]), Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
# What gcr.io/distroless/cc-debian12 has, from libc6, libgcc-s1, libgomp1, libssl3 and libstdc++6.
IN_THE_BASE = {
    "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libgomp.so.1", "libssl.so.3", "libcrypto.so.3", "libstdc++.so.6",
}
# How long the program may take until it answers, in seconds.
PATIENCE = 30
# Not every user's has what is root's.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
is_root = os.geteuid() == 0


def stages():
    """The instructions of each stage, as (name, rest)."""
    made, text = [], dockerfile.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            made.append([])
        made[-1].append((name, rest))
    return made


build, last = stages()


def only(name):
    (value,) = [rest for instruction, rest in last if instruction == name]
    return value


assert only("FROM") == "gcr.io/distroless/cc-debian12:nonroot", "look again at what is in the base image"
user, group = map(int, only("USER").split(":"))
assert user > 0 and group > 0, "runs as root"
healthcheck = only("HEALTHCHECK")
health = json.loads(healthcheck[healthcheck.index("CMD ") + 4:])
assert health[0] == json.loads(only("ENTRYPOINT"))[0], "the image has no other program to ask with"
entrypoint, command = json.loads(only("ENTRYPOINT")), json.loads(only("CMD"))
environment = dict(pair.split("=", 1) for pair in only("ENV").split())
assert dict(build)["FROM"].endswith(" AS build")
assert "cargo build --release --locked -p throughline" in dict(build)["RUN"]


def owned(path, uid, gid):
    if is_root:
        os.chown(path, uid, gid)


def make():
    """COPY, from what RUN has made in the first stage: the program, and an empty directory for its state."""
    built = root.parent / "built"
    target = built / "src/target/release/throughline"
    target.parent.mkdir(parents=True)
    shutil.copy(program, target)
    made = re.search(r"mkdir -p -m (\d+) (\S+)", dict(build)["RUN"])
    directory = built / made[2].lstrip("/")
    directory.mkdir(parents=True)
    directory.chmod(int(made[1], 8))

    root.mkdir(mode=0o755)
    for base in ("var/lib", "usr/local/bin", "tmp", "proc"):
        (root / base).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for rest in (rest for instruction, rest in last if instruction == "COPY"):
        *flags, source, destination = rest.split()
        flags = dict(flag.lstrip("-").split("=") for flag in flags)
        assert flags.pop("from") == "build", rest
        uid, gid = map(int, flags.pop("chown", "0:0").split(":"))
        assert not flags, f"flags that not every builder has: {rest}"
        source_path, destination_path = built / source.lstrip("/"), root / destination.lstrip("/")
        # A directory is copied as what is in it.
        inside = sorted(source_path.iterdir()) if source_path.is_dir() else [source_path]
        for path in inside:
            to = destination_path / path.name if destination.endswith("/") else destination_path
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                to.mkdir()
                shutil.copymode(path, to)
            else:
                shutil.copy(path, to)
            owned(to, uid, gid)

    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(?:=> )?(/\S+) \(0x", linked):
        assert Path(library).name in IN_THE_BASE, f"the base image has no {library}"
        to = root / library.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, to)


log = root.parent / "log"


def inside(arguments):
    if is_root:
        return [shutil.which("chroot", path=PATH), f"--userspec={user}:{group}", str(root), *entrypoint, *arguments]
    unshare = [shutil.which("unshare", path=PATH), "--user", "--map-current-user", f"--root={root}", "--wd=/"]
    return [*unshare, *entrypoint, *arguments]


def run(variables, arguments):
    with open(log, "a") as said:
        return subprocess.Popen(inside(arguments), env={**environment, **variables}, stdout=said, stderr=said)


def asked(variables):
    """What HEALTHCHECK runs, in the environment of the container."""
    return subprocess.run(inside(health[1:]), env={**environment, **variables}, capture_output=True)


def status(port, path, host):
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    if path == "/mcp":
        asked.data = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        asked.add_header("Content-Type", "application/json")
        asked.add_header("Accept", "application/json, text/event-stream")
    try:
        with urllib.request.urlopen(asked, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def answers(process, port, path):
    """Waits until it does, asked under an address as a platform's health check asks."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            assert status(port, path, "169.254.130.2") == 200, path
            return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            sys.exit(f"{shlex.join(process.args)}: {log.read_text() or 'does not answer'}")
        # Between two looks.
        time.sleep(0.05)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def call(port):
    client = [program, "call", f"http://127.0.0.1:{port}", "whoami", "--json"]
    made = subprocess.run(client, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


make()
running = []
try:
    reference_port, gateway_port, keeping_port = free_port(), free_port(), free_port()
    hosts = "app.azurewebsites.net,app-staging.azurewebsites.net"
    variables = {"PORT": str(reference_port), "WEBSITE_INSTANCE_ID": "first", "THROUGHLINE_REFERENCE_HOSTS": hosts}
    running.append(run(variables, command))
    answers(running[-1], reference_port, "/healthz")
    if is_root:
        said = Path(f"/proc/{running[-1].pid}/status").read_text()
        assert re.search(rf"^Uid:\s+{user}\s+{user}", said, re.M), "does not run as the user"
    assert "first" in str(call(reference_port))
    assert asked(variables).returncode == 0, "HEALTHCHECK finds it ill"
    assert asked({"PORT": str(free_port())}).returncode == 1, "HEALTHCHECK finds what is not there"
    assert status(reference_port, "/mcp", "app-staging.azurewebsites.net") == 200
    assert status(reference_port, "/mcp", "attacker.example") == 403

    made = subprocess.run(inside(["keys", "new", "--one-line"]), capture_output=True, text=True, check=True)
    upstream = ["serve", f"http://127.0.0.1:{reference_port}/mcp"]
    # As deploy/azure/infra/modules has it without Redis; in root's chroot the state directory cannot be written.
    variables = {
        "THROUGHLINE_LISTEN": f"0.0.0.0:{gateway_port}",
        # The last is for the client below.
        "THROUGHLINE_ALLOWED_HOSTS": f"{hosts},127.0.0.1",
        "THROUGHLINE_STORE": "memory:",
        "THROUGHLINE_KEY_RING": made.stdout.strip(),
        "THROUGHLINE_STATE_DIR": "/usr/local/bin",
    }
    running.append(run(variables, upstream))
    answers(running[-1], gateway_port, "/healthz")
    answers(running[-1], gateway_port, "/readyz")
    assert asked(variables).returncode == 0, "HEALTHCHECK finds it ill"
    assert "first" in str(call(gateway_port))
    assert status(gateway_port, "/mcp", "app.azurewebsites.net") == 200
    assert status(gateway_port, "/mcp", "attacker.example") == 403

    # And one that keeps its sessions in the directory that the image has for it.
    running.append(run({"THROUGHLINE_LISTEN": f"127.0.0.1:{keeping_port}"}, upstream))
    answers(running[-1], keeping_port, "/readyz")
    kept = root / environment["THROUGHLINE_STATE_DIR"].lstrip("/")
    assert any(kept.iterdir()), "nothing is kept where it should be"
    assert kept.stat().st_mode & 0o077 == 0, "others can look at the keys"
finally:
    for process in running:
        process.terminate()
    for process in running:
        process.wait(PATIENCE)
