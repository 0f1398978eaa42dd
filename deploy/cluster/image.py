#!/usr/bin/env python3
"""Writes an image of programs of this machine, with the shared libraries that they need, as an OCI archive. Needs no Docker and no registry.

    deploy/cluster/image.py qscale-function:dev target/cluster/function.tar target/debug/qscale-function

The programs are in /usr/local/bin, without debug information if `strip` is there. A container of an image of one program runs it; one of several needs a
command. It runs as user 65532. Nothing else is in it: no shell, no other file than /etc/passwd and an empty /tmp. The same files give the same image.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

USER = 65532
FOLDER = "/usr/local/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def libraries(program):
    """Shared libraries of a program, as the dynamic linker finds them; none of a static one."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(?:=> |^\s+)(/\S+) \(", listed, re.MULTILINE)


def add(archive, path, content=None, mode=0o755, folder=False):
    entry = tarfile.TarInfo(path)
    entry.mode = mode
    if folder:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    else:
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def stripped(program):
    """Content of a program without debug information, if `strip` is there."""
    if shutil.which("strip") is None:
        return read(program)
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "--strip-debug", "-o", copy.name, program], check=True)
        return read(copy.name)


def layer(programs):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        add(archive, "tmp", mode=0o1777, folder=True)
        add(archive, "etc/passwd", f"qscale:x:{USER}:{USER}::/tmp:/none\n".encode(), mode=0o644)
        for program in programs:
            add(archive, f"{FOLDER}/{os.path.basename(program)}".lstrip("/"), stripped(program))
        for library in sorted({library for program in programs for library in libraries(program)}):
            add(archive, library.lstrip("/"), read(library))
    return data.getvalue()


def main():
    if len(sys.argv) < 4 or ":" not in sys.argv[1]:
        sys.exit(__doc__.strip())
    name, output, *programs = sys.argv[1:]
    blobs = {}

    def blob(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def document(value, kind):
        return blob(json.dumps(value, sort_keys=True).encode(), f"{kind}+json")

    files = layer(programs)
    container = {"User": f"{USER}:{USER}", "Env": [f"PATH={FOLDER}"], "WorkingDir": "/tmp"}
    if len(programs) == 1:
        container["Entrypoint"] = [f"{FOLDER}/{os.path.basename(programs[0])}"]
    config = {
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(files).hexdigest()}"]},
    }
    layers = [blob(gzip.compress(files, compresslevel=1, mtime=0), "layer.v1.tar+gzip")]
    manifest = document({"schemaVersion": 2, "config": document(config, "config.v1"), "layers": layers}, "manifest.v1")
    # containerd knows an image by its full name.
    manifest["annotations"] = {"io.containerd.image.name": f"docker.io/library/{name}", "org.opencontainers.image.ref.name": name.split(":")[1]}
    index = json.dumps({"schemaVersion": 2, "manifests": [manifest]}, sort_keys=True).encode()
    with tarfile.open(output, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted({**blobs, "index.json": index, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}.items()):
            add(archive, path, content, mode=0o644)


if __name__ == "__main__":
    main()
