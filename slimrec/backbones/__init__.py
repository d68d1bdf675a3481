"""The networks behind the gate: one file each; `base.py` says what a network has to write."""

from slimrec.plugins import Family

BACKBONES = Family(
    "backbone",
    "slimrec.backbones",
    {
        "mlp": "mlp:MLP",
        "widedeep": "widedeep:WideDeep",
        "deepfm": "deepfm:DeepFM",
        "dcn": "dcn:DCN",
        "pnn": "pnn:PNN",
        "xdeepfm": "xdeepfm:XDeepFM",
    },
    adapter="adapter:adapted",
    adds=("whole",),
)
