"""What a job leaves in the object store, by name."""


def checkpoint_name(job: str) -> str:
    """The last checkpoint: what `resume` and newcomers begin with."""
    return f"{job}/checkpoint.safetensors"


def model_name(job: str) -> str:
    """The final model, as plain safetensors."""
    return f"{job}/model.safetensors"


def report_name(job: str) -> str:
    """The recorder's report."""
    return f"{job}/report.json"
