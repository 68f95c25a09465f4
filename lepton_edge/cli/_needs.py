"""What a device's profile needs: parts of this machine, and words on the device itself."""

from __future__ import annotations

from lepton_edge.board.work import PACKAGES
from lepton_edge.devices import Profile

# What makes a file of a format here, and runs it here as a check.
_MAKE = {
    "tflite": ("tflite-convert", "tflite"),
    "onnx": ("onnx-convert", "onnx"),
    "openvino": ("openvino",),
    "tensorrt": ("onnx-convert",),  # the engine itself is built on the device
}
_HOSTED = ("coral-usb", "coral-m2")  # accelerators of this machine, rather than machines
ADDRESS = "ssh://USER@HOST"


def ways(profile: Profile) -> list[tuple[str, ...]]:
    """Sets of parts; with any one of them complete, the device can be used from here."""
    if profile.kind == "edgetpu":
        reach = "edgetpu" if profile.name in _HOSTED else "ssh"
        return [("tflite-convert", "edgetpu_compiler", reach)]
    if profile.kind == "mcu":
        return [("tflite-convert",)]
    formats = [each.format for each in profile.runtimes if each.format in _MAKE]
    if profile.name == "x86":
        return [_MAKE[format] for format in formats]
    reach = "adb" if profile.name.startswith("android") else "ssh"
    return [(*_MAKE[format], reach) for format in formats]


def there(profile: Profile) -> str | None:
    """What must be on the device, with the command that asks it; None where that is here."""
    if profile.name == "x86" or profile.name in _HOSTED or profile.kind == "mcu":
        return None
    if profile.name.startswith("android"):
        return (
            "allow USB debugging and give it LiteRT's benchmark_model; then: lepton-edge doctor"
            " --on 'adb://SERIAL?benchmark_model=/path' (adb devices lists the serial numbers)."
        )
    if profile.kind == "gpu":
        stacks = ", ".join(
            f"{each.jetpack} has TensorRT {each.tensorrt}" for each in profile.stacks
        )
        return f"sudo apt-get install nvidia-jetpack, which brings TensorRT ({stacks})."
    packages = [PACKAGES[each.format] for each in profile.runtimes if each.format in PACKAGES]
    ask = f"lepton-edge doctor {profile.name} --on {ADDRESS}"
    if profile.kind == "edgetpu":
        return f"sudo apt-get install libedgetpu1-std, python3 -m pip install numpy {packages[0]}."
    one = " or ".join(packages)
    return f"python3 -m pip install numpy, and {one}; then: {ask}"
