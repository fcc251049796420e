"""What a process imports that makes features and trains no network."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["wandb"] = None  # as where it is not installed; left as it was
import leukoscope.learning.lean as lean
timm = lean.import_timm()
assert timm.create_model("test_resnet") is not None
assert "torch._dynamo" not in sys.modules
assert sys.modules["wandb"] is None

with lean._without_compiler():
    import torch
    assert torch.compiler.disable(len) is len
    assert torch.compiler.disable(reason="so")(len) is len
    assert "torch._dynamo.eval_frame" not in sys.modules
    with lean.without_triton():
        assert callable(torch._dynamo.optimize)  # asked for more: the real one comes
        import torch.utils.flop_counter
    assert "triton" not in sys.modules or torch.cuda.is_available()
    assert "torch._dynamo.eval_frame" in sys.modules
from torch._dynamo.utils import is_compile_supported
assert lean._is_compile_supported("cpu") == is_compile_supported("cpu")
layer = torch.nn.Linear(2, 2)
torch.optim.AdamW(layer.parameters()).step()  # it imports the compiler, too
"""


def test_torchvision_and_timm_bring_no_compiler_until_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
