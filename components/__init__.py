"""How each stage runs in a pod: image, inputs, outputs. No logic; bodies import `slimrec.stages` and nothing before."""

import os

IMAGE = os.environ.get("SLIMREC_IMAGE", "slimrec:0.1.0")
