"""Window as a step: whether the same data of the same day was audited under the same recipe before."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def window(fingerprint: str, day: str, recipe: dict, workspace: str = "") -> str:
    """Look for an earlier audit of this window. Only an audit that stands for a day has one.

    Args:
        fingerprint: What lies at the source now.
        day: Day of the audit as YYYY-MM-DD; "" for an audit that always runs.
        recipe: As settled by fingerprint.
        workspace: Folder that outlives the step.

    Returns:
        Output: "audited" where nothing is left to do; else the window's key, for register to note.
    """
    from slimrec.stages import execute_or_exit

    config = {"fingerprint": fingerprint, "audit_date": day, "recipe": recipe}
    return execute_or_exit("window", config, workspace=workspace)["window"]
