"""How each stage runs in a pod: image, inputs, outputs. No logic; bodies import `slimrec.stages` and nothing before."""

import os

IMAGE = os.environ.get("SLIMREC_IMAGE", "slimrec:0.1.0")
GPU_IMAGE = os.environ.get("SLIMREC_GPU_IMAGE", IMAGE)  # of steps that a preset gives GPUs
