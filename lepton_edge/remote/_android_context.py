"""What an Android device says of itself: files of Linux, properties, and two of its services."""

from __future__ import annotations

import re
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_edge import context

Shell = Callable[[str], tuple[int, str]]

# Of PowerManager.THERMAL_STATUS_*, in this order; from the second on the system slows down.
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_FILES = (
    "/proc/cpuinfo /proc/meminfo /proc/loadavg /proc/device-tree/model"
    " /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
    " /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
    " /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"
    " /sys/devices/system/cpu/cpufreq/policy*/scaling_m*_freq"
    " /sys/class/devfreq/*/m*_freq /sys/class/thermal/thermal_zone*/t[ey][mp]*"
    " /sys/class/thermal/cooling_device*/type /sys/class/thermal/cooling_device*/cur_state"
)
_COMMANDS = (
    "getprop",
    "uname -r",
    "uname -m",
    "nproc",
    "date +%s",
    "dumpsys battery",
    "dumpsys thermalservice",
    "settings get global low_power",
)
_SCRIPT = """
for file in {files}; do
  [ -f $file ] && [ -r $file ] && {{ echo "@file $file"; cat $file 2>/dev/null; echo; }}
done
{commands}
echo "@command df"; df -k {folder} 2>/dev/null
"""


def about(shell: Shell, folder: str) -> dict[str, Any]:
    """`context` (groups as of a machine, and `battery`), `machine`, `abi`, `clock_offset_s`,
    `free` (bytes in `folder`) and `folder`. What the device does not tell is None."""
    commands = "\n".join(
        f'command -v {command.split()[0]} >/dev/null && {{ echo "@command {command}";'
        f" {command} 2>/dev/null; }}"
        for command in _COMMANDS
    )
    text = shell(_SCRIPT.format(files=_FILES, commands=commands, folder=shlex.quote(folder)))[1]
    return read(text, folder)


def read(text: str, folder: str) -> dict[str, Any]:
    """`about`, from what the script printed."""
    files, said = _parts(text)
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place, name.lstrip("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        found = context.of_files(Path(place))
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]$", said.get("getprop", ""), re.MULTILINE))
    names = [properties.get(f"ro.product.{key}", "") for key in ("manufacturer", "model")]
    found["board"]["model"] = " ".join(filter(None, names)) or found["board"]["model"]
    cpu = found["cpu"]
    cpu["model"] = properties.get("ro.soc.model") or cpu["model"]
    cpu["architecture"] = said.get("uname -m") or None
    cpu["cores"] = int(said["nproc"]) if said.get("nproc", "").isdigit() else None
    load = files.get("/proc/loadavg", "").split()
    found["load"]["average_1_min"] = float(load[0]) if load else None
    saver = {"0": "normal", "1": "battery saver"}.get(said.get("settings get global low_power", ""))
    found["power"]["mode"] = saver or found["power"]["mode"]
    throttled = _throttled(said.get("dumpsys thermalservice", ""))
    if throttled is not None:
        found["power"]["throttled"] = throttled
    release = properties.get("ro.build.version.release")
    found |= {
        "battery": _battery(said.get("dumpsys battery", "")),
        "system": {"os": "Android" if release else None, "kernel": said.get("uname -r") or None},
        "process": {},
        "versions": {
            key: value
            for key, value in (
                ("android", release),
                ("build", properties.get("ro.build.fingerprint")),
            )
            if value
        },
    }
    name = found["board"]["model"] or cpu["model"]
    date = said.get("date +%s", "")
    space = re.findall(r"\s(\d+)\s+\d+%\s", said.get("df", ""))
    return {
        "context": found,
        "machine": f"{name or 'unknown'} ({cpu['architecture'] or 'unknown'})",
        "abi": properties.get("ro.product.cpu.abi") or said.get("uname -m") or None,
        "clock_offset_s": round(int(date) - time.time()) if date.isdigit() else None,
        "free": int(space[-1]) * 1024 if space else None,
        "folder": folder,
    }


def _parts(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """What files held and what commands said, by their names."""
    files: dict[str, str] = {}
    said: dict[str, str] = {}
    for part in re.split(r"^@(?=file |command )", text, flags=re.MULTILINE)[1:]:
        kind, _, rest = part.partition(" ")
        name, _, content = rest.partition("\n")
        (files if kind == "file" else said)[name] = content.strip()
    return files, said


def _throttled(text: str) -> list[str] | None:
    found = re.search(r"Thermal Status: (\d+)", text)
    if found is None:
        return None
    status = int(found.group(1))
    name = THERMAL[status] if status < len(THERMAL) else str(status)
    return [f"thermal status {name}"] if status else []


def _battery(text: str) -> dict[str, Any] | None:
    """Level in percent, temperature in degrees Celsius, what charges it."""
    fields = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", text, re.MULTILINE))
    if "level" not in fields:
        return None
    tenths = fields.get("temperature", "")
    return {
        "level": int(fields["level"]),
        "temperature_c": int(tenths) / 10 if tenths.lstrip("-").isdigit() else None,
        "charged_by": [key[: -len(" powered")] for key, value in fields.items()
                       if key.endswith(" powered") and value == "true"],
    }  # fmt: skip
