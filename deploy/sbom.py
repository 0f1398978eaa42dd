#!/usr/bin/env python3
"""Writes the bill of materials of each shipped program in target/sbom: the crates that it links on Linux, in CycloneDX 1.5.

The figures come from `cargo metadata`, the checksums from Cargo.lock. The published tool, cargo-cyclonedx, takes minutes to compile.
"""

import json
import pathlib
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"


def crates(start, nodes):
    """Ids of the crates that `start` links or is built with, itself included."""
    found, waiting = set(), [start]
    while waiting:
        crate = waiting.pop()
        if crate not in found:
            found.add(crate)
            waiting += linked(nodes[crate])
    return found


def linked(node):
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]


def component(package, checksums):
    name, version = package["name"], package["version"]
    entry = {"type": "library", "bom-ref": package["id"], "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((name, version)):
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def main():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}
    folder = ROOT / "target" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for crate in metadata["workspace_members"]:
        package = packages[crate]
        programs = any("bin" in target["kind"] for target in package["targets"])
        if not programs or (ROOT / "tests") in pathlib.Path(package["manifest_path"]).parents:
            continue
        found = sorted(crates(crate, nodes))
        document = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": {**component(package, checksums), "type": "application"}},
            "components": [component(packages[other], checksums) for other in found if other != crate],
            "dependencies": [{"ref": other, "dependsOn": sorted(set(linked(nodes[other])))} for other in found],
        }
        # Paths of the machine are no part of an identity.
        text = json.dumps(document, indent=1).replace(f"path+file://{ROOT}/", "path:")
        (folder / f"{package['name']}.json").write_text(text + "\n")
        print(f"target/sbom/{package['name']}.json: {len(found) - 1} crates")


main()
