"""A compressed form of net.py:brief, written by lepton-edge.

`factory` gives the module with its sizes; its trained values are in eighth.safetensors.
The original file must stay where FORM says, relative to this folder, and unchanged.
"""

import json
from pathlib import Path

from lepton_edge.compress import Form

FORM = json.loads(r"""{
 "factory": "../../net.py:brief",
 "sha256": "d9435b261ffcfb1e97d6c6299d36b6a6ca06f76d405cce37e5c57dffc57e7bd1",
 "arguments": {},
 "attributes": {
  "conv1": {
   "out_channels": 16
  },
  "conv2": {
   "in_channels": 16,
   "out_channels": 16
  },
  "fc1": {
   "in_features": 1024,
   "out_features": 184
  },
  "fc2": {
   "in_features": 184
  }
 },
 "shapes": {
  "conv1.weight": [
   16,
   3,
   3,
   3
  ],
  "conv1.bias": [
   16
  ],
  "conv2.weight": [
   16,
   16,
   3,
   3
  ],
  "conv2.bias": [
   16
  ],
  "fc1.weight": [
   184,
   1024
  ],
  "fc1.bias": [
   184
  ],
  "fc2.weight": [
   10,
   184
  ]
 }
}""")


def factory():
    """The module; lepton-edge puts its weights in."""
    return Form.from_dict(FORM).build(Path(__file__).parent)
