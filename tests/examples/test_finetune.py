"""Fine-tuning says what it lacks, and trains a model from a local directory: one of transformers, and one in its place."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.finetune import CONTEXT, Finetune, NotReady, read_library
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.snapshots import model_to_bytes
from runners.jobs.workload import bind

VOCABULARY = 256


class Tiny(nn.Module):
    """Has the face of a causal language model of transformers: predicts a token from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> Any:
        logits = self.rows(input_ids[:, :-1])
        return SimpleNamespace(loss=cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))


@pytest.fixture
def in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """A library in the place of transformers, with bytes for tokens; gives what it was asked to load."""
    asked: list[tuple[Path, bool]] = []

    def loading(make: Any) -> Any:
        def from_pretrained(path: Path, *, local_files_only: bool) -> Any:
            asked.append((path, local_files_only))
            return make()

        return SimpleNamespace(from_pretrained=from_pretrained)

    library: Any = ModuleType("transformers")
    library.AutoModelForCausalLM = loading(lambda: Tiny().to(torch.bfloat16))
    library.AutoTokenizer = loading(lambda: lambda text, verbose: {"input_ids": list(text.encode())})
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setenv("SHOAL_MODEL", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    return asked


def trainer(**how: Any) -> LocalTrainer:
    return LocalTrainer(bind(Finetune(), "finetune"), seed=0, node="a", device=torch.device("cpu"), **how)


def test_it_trains_what_the_directory_has(in_its_place: list[tuple[Path, bool]], tmp_path: Path) -> None:
    learner = trainer()
    assert in_its_place == [(tmp_path, True)] * 2
    assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}
    assert tuple(learner.dataset[0].shape) == (CONTEXT,)
    assert len(learner.dataset) > 5_000
    before = learner.validate()
    assert before == learner.validate()
    for _ in range(100):
        learner.step(4)
    assert learner.validate() < before - 0.004  # at its learning rate a step moves each weight by 5e-5


def test_held_out_text_is_not_trained_on() -> None:
    held_out, trained = read_library("validation"), read_library("train")
    assert len(trained) > 9 * len(held_out) > 500_000
    assert held_out[1000:1400] not in trained


def test_it_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_its_place: list[Any]) -> None:
    (tmp_path / "config.json").unlink()
    with pytest.raises(NotReady, match=rf"SHOAL_MODEL is {tmp_path}, which has no config.json: .*save_pretrained"):
        Finetune().model()
    monkeypatch.delenv("SHOAL_MODEL")
    with pytest.raises(NotReady, match="set SHOAL_MODEL to the directory"):
        Finetune().samples("train")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NotReady, match="pip install transformers"):
        Finetune().model()


def save_tiny_gpt2(directory: Path) -> Any:
    """A randomly initialised GPT-2 of some 60,000 parameters and a tokenizer of single bytes, as users have theirs."""
    import tokenizers
    import transformers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    gpt2 = transformers.GPT2LMHeadModel(config)
    gpt2.save_pretrained(directory)
    return gpt2


def test_a_model_of_transformers_is_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    saved = save_tiny_gpt2(tmp_path)
    monkeypatch.setenv("SHOAL_MODEL", str(tmp_path))
    learner = trainer(accumulate=2, precision="bfloat16")
    assert set(learner.model.state_dict()) == set(saved.state_dict())
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name
    before = learner.validate()
    for _ in range(10):
        learner.step(8)
    assert learner.validate() < before - 0.01
    saved.load_state_dict(load(model_to_bytes(learner.model)))
    with torch.no_grad():
        loss = Finetune().validate(saved.eval())
    assert loss == pytest.approx(learner.validate(), rel=1e-5)
