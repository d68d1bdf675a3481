"""The selection methods: one file each; `base.py` says what a method has to write."""

from slimrec.gates.effect import EFFECT as EFFECT
from slimrec.gates.effect import EVERY as EVERY

TABLE = {
    "none": "base:Gate",
    "random": "random:RandomGate",
    "mutual_information": "mutual:MutualInformationGate",
    "chi2": "mutual:Chi2Gate",
    "lasso": "lasso:LassoGate",
    "lightgbm": "trees:LightGBMGate",
    "permutation": "permutation:PermutationGate",
    "shark": "shark:SharkGate",
    "sfs": "sfs:SfsGate",
    "group_lasso": "grouplasso:GroupLassoGate",
    "leap": "leap:LeapGate",
    "lightfmp": "lightfmp:LightFmpGate",
    "lpfs": "lpfs:LpfsGate",
    "autofield": "autofield:AutoFieldGate",
    "irazor": "irazor:IRazorGate",
    "autodim": "autodim:AutoDimGate",
    "optfeature": "optfeature:OptFeatureGate",
    "optfs": "optfs:OptFSGate",
    "adafs": "adafs:AdaFSGate",
    "mvfs": "mvfs:MvFSGate",
    "optembed": "optembed:OptEmbedGate",
    "autofis": "autofis:AutoFISGate",
}
