"""A BERT-type encoder, or a decoder's lower layers, with a head trained on GoEmotions, and a low-rank adapter where
asked for.

Knows nothing of training data or of what features are used for. Only the trained part is stored with the project:
the encoder comes from the zoo.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.pretrained import whole_model
from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.settings import EmotionNetworkSettings
from model.zoo.resolve import identity, resolve

MODEL_TYPE = "empamba-emotion-network"
ADAPTED = ("query", "key", "value", "dense")
"""The encoder's linear layers that an adapter (LoRA, Hu et al. 2021, arXiv:2106.09685) changes."""

_ADAPTER = "adapter.base_model.model."
"""Before the names of the adapter's tensors in a file; the head's stand as they are."""

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_ADAPTER_SCALE = 2
"""What the product of both low-rank matrices is multiplied by."""


class EmotionHead(nn.Module):
    """Pooled encoder layers → standardised → tanh hidden layer → one logit a label.

    The emotion feature is the hidden layer less its mean over the training texts, in the directions that the label
    layer reads: what no label reads is left-over topic, and would drown the emotion in a cosine.
    """

    def __init__(self, inputs: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("hidden_center", torch.zeros(hidden))
        self.dense = nn.Linear(inputs, hidden)
        self.labels = nn.Linear(hidden, len(GOEMOTIONS_LABELS))
        self.before_dense = nn.Dropout(dropout / 2)
        self.before_labels = nn.Dropout(dropout)

    def standardise_by(self, pooled: Tensor) -> None:
        """Take centre and scale from `pooled`, float [n, inputs]."""
        self.center.copy_(pooled.mean(0))
        self.scale.copy_(pooled.std(0).clamp_min(1e-5))

    def hidden_states(self, pooled: Tensor) -> Tensor:
        """Hidden states float [n, hidden] in (-1, 1) of pooled layers float [n, inputs]."""
        return torch.tanh(self.dense(self.before_dense((pooled - self.center) / self.scale)))

    def emotion_features(self, hidden: Tensor) -> Tensor:
        """Features float [n, 28] of hidden states float [n, hidden]: coordinates in the span of the label weights."""
        directions = torch.linalg.qr(self.labels.weight.T.float()).Q  # there is none in half precision
        return (hidden - self.hidden_center).float() @ directions

    def label_logits(self, hidden: Tensor) -> Tensor:
        """Logits float [n, 28] of hidden states float [n, hidden]."""
        return self.labels(self.before_labels(hidden))

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits float [n, 28] of pooled layers float [n, inputs]."""
        return self.label_logits(self.hidden_states(pooled))


class EmotionNetwork(nn.Module):
    """Encoder and head.

    adapter_dropout: where it is given and the settings name a rank, the encoder carries a low-rank adapter to train,
    else it is frozen.
    """

    def __init__(
        self,
        encoder: nn.Module,
        settings: EmotionNetworkSettings,
        dropout: float = 0.0,
        adapter_dropout: float | None = None,
    ) -> None:
        super().__init__()
        depth = encoder.config.num_hidden_layers
        if not all(0 <= layer <= depth for layer in settings.layers):
            raise ValueError(
                f"layers {settings.layers}: the encoder {settings.base!r} has layers 0 to {depth}"
            )
        self.settings = settings
        self.head = EmotionHead(len(settings.layers) * encoder.config.hidden_size, settings.hidden, dropout)
        self.encoder = encoder.requires_grad_(False)
        self.adapted = bool(settings.rank) and adapter_dropout is not None
        if self.adapted:
            self.encoder = _adapted(encoder, settings.rank, adapter_dropout)

    @property
    def started(self) -> bool:
        """Whether the mark of a text's start stands before its tokens."""
        return self.settings.pooling == "after_first"

    def trained_state(self) -> dict[str, Tensor]:
        """Name -> tensor of all that was trained: the head's, and the adapter's where there is one."""
        state = dict(self.head.state_dict())
        if self.adapted:
            from peft import get_peft_model_state_dict

            state |= {f"adapter.{name}": t for name, t in get_peft_model_state_dict(self.encoder).items()}
        return state

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Take what `trained_state` gave into a network without an adapter to train; RuntimeError where names do not
        match. The adapter is added to the weights it changes, so that it costs nothing from here on."""
        self.head.load_state_dict({n: t for n, t in state.items() if not n.startswith(_ADAPTER)}, strict=True)
        adapter = {n.removeprefix(_ADAPTER): t for n, t in state.items() if n.startswith(_ADAPTER)}
        layers = _adapted_layers(self.encoder) if self.settings.rank else {}
        if adapter.keys() != {name + part for name in layers for part in (_DOWN, _UP)}:
            raise RuntimeError("the adapter does not fit the encoder")
        for name, layer in layers.items():
            layer.weight += _ADAPTER_SCALE * adapter[name + _UP] @ adapter[name + _DOWN]

    def pooled(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Pooled layers float [B, layers × width] of token ids int64 [B, L] under the mask bool [B, L]."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=mask.long(), output_hidden_states=True
        ).hidden_states
        chosen = torch.stack([states[layer] for layer in self.settings.layers], dim=1)
        if self.settings.pooling == "first":
            return chosen[:, :, 0].flatten(1)
        if self.settings.pooling == "after_first":
            mask = mask.clone()
            mask[:, 0] &= mask.sum(1) == 1  # a text of one token has no other
        kept = mask[:, None, :, None].to(chosen.dtype)
        return ((chosen * kept).sum(2) / kept.sum(2)).flatten(1)


def load_encoder(name: str, depth: int | None = None) -> nn.Module:
    """The encoder `name` of the zoo in float32 and evaluation mode. depth: of a decoder, the layers that are run."""
    from transformers import AutoModel

    encoder = whole_model(AutoModel, resolve(name), dtype=torch.float32).eval()
    if hasattr(encoder, "layers") and depth is not None and depth < len(encoder.layers):
        encoder.layers = encoder.layers[:depth]
        encoder.norm = nn.Identity()  # it belongs after the last layer, which is gone
    return encoder


def token_rows(tokenizer, texts: list[str], max_tokens: int, started: bool = False) -> list[list[int]]:
    """Token ids of every text. started: with the mark of a text's start before them, which pooling leaves out."""
    if not texts:
        return []
    rows = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    return [[tokenizer.bos_token_id, *row[: max_tokens - 1]] for row in rows] if started else rows


def load_network(folder: Path) -> EmotionNetwork:
    """The network stored in `folder` in evaluation mode; loading is strict.

    ValueError when the folder holds another kind of model, or was trained on another encoder than the zoo's.
    """
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if described.get("model_type") != MODEL_TYPE or tuple(described["labels"]) != GOEMOTIONS_LABELS:
        raise ValueError(f"{folder}: not an emotion network with the 28 GoEmotions labels; train one again")
    settings = EmotionNetworkSettings(**described["network"])
    if described["base_identity"] != identity(settings.base):
        raise ValueError(
            f"{folder}: trained on {described['base_identity']}, not on {identity(settings.base)}"
        )
    network = EmotionNetwork(load_encoder(settings.base, max(settings.layers)), settings)
    stored = load_file(folder / "model.safetensors")
    network.load_trained_state({name: tensor.float() for name, tensor in stored.items()})
    return network.eval()


def _adapted_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    linear = {name: part for name, part in encoder.named_modules() if isinstance(part, nn.Linear)}
    return {name: part for name, part in linear.items() if name.split(".")[-1] in ADAPTED}


def _adapted(encoder: nn.Module, rank: int, dropout: float) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        encoder,
        LoraConfig(
            r=rank,
            lora_alpha=_ADAPTER_SCALE * rank,
            lora_dropout=dropout,
            target_modules=list(ADAPTED),
        ),
    )
