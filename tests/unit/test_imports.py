"""What importing costs: nothing heavy, and little beside numpy."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_line_loads_no_framework_before_it_must() -> None:
    code = (
        "import sys; from lepton_edge import cli; code = cli.run(['--help']);"
        "heavy = {'torch', 'tensorflow', 'keras', 'jax', 'onnx', 'onnxruntime', 'openvino',"
        " 'bokeh', 'jinja2', 'pyarrow', 'PIL'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    import lepton_edge

    assert sorted(lepton_edge.__all__) == lepton_edge.__all__
    for name in lepton_edge.__all__:
        assert getattr(lepton_edge, name).__doc__
