"""The networks behind the gate: one file each; `base.py` says what a network has to write."""

TABLE = {
    "mlp": "mlp:MLP",
    "widedeep": "widedeep:WideDeep",
    "deepfm": "deepfm:DeepFM",
    "dcn": "dcn:DCN",
    "pnn": "pnn:PNN",
    "xdeepfm": "xdeepfm:XDeepFM",
}
